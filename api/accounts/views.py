"""Login, logout, the current user and their password, tokens, and the audit log."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.contrib.auth import authenticate
from django.db import transaction
from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of, token_of
from api.accounts.limits import LoginRate
from api.accounts.models import Invitation, Membership, Project, Token
from api.accounts.schemas import (
    AuditShape,
    LoginRequest,
    LoginShape,
    MeShape,
    NewTokenShape,
    PasswordRequest,
    TokenRequest,
    TokenShape,
    WorkerTokenRequest,
)
from api.accounts.selectors import audit_of, is_superuser_token, token_find_visible, tokens_visible_to
from api.accounts.tokens import SCOPES_OF_ROLE, token_revoke, user_token_create, worker_token_create
from api.accounts.users import invitation_answer, password_change
from api.errors import ErrorShape, Problem
from api.openapi import page_of
from api.paging import PAGE, ById, Cursor

LOGIN_DAYS = 30
MAX_NAMED = 20
LOGIN_RESPONSES = {200: LoginShape, 401: ErrorShape, 403: ErrorShape, 404: ErrorShape}
AUDIT_FILTERS = (
    OpenApiParameter("object", str, description="As in job:<uuid>, token:<uuid>, project:<uuid>."),
    OpenApiParameter("actor", str, description="As in user:anna."),
    OpenApiParameter("kind", str, description="As in job_cancelled."),
)


class LoginView(APIView):
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (LoginRate,)

    @extend_schema(request=LoginRequest, responses=LOGIN_RESPONSES, operation_id="login", auth=[])
    def post(self, request: Request) -> Response:
        """A user token for a name and a password."""
        body = LoginRequest.model_validate(request.data)
        user = authenticate(request=request, username=body.username, password=body.password)
        if user is None:
            message = "The user name or the password is wrong."
            raise Problem("wrong_password", message, status=401, hint="Passwords are set by an admin.")
        by = f"user:{user.get_username()}"
        if body.join is not None:
            invitation_answer(user=user, project=body.join, accept=True, by=by)
        project = _project_for(user, body.join or body.project)
        expires_at = timezone.now() + timedelta(days=LOGIN_DAYS)
        plain, _ = user_token_create(user=user, project=project, name="login", expires_at=expires_at, login=True, by=by)
        return Response(LoginShape(token=plain, expires_at=expires_at, project=project.name).model_dump())


class LogoutView(APIView):
    write_scope = "read"

    @extend_schema(request=None, responses={204: None}, operation_id="logout")
    def post(self, request: Request) -> Response:
        """Revokes the token that this is called with."""
        token_revoke(token=token_of(request), by=actor_of(request))
        return Response(status=204)


class MeView(APIView):
    @extend_schema(responses=MeShape, operation_id="me")
    def get(self, request: Request) -> Response:
        """Who the token speaks for."""
        names = {"user": request.user.get_username(), "project": project_of(request).name}
        return Response(MeShape(**names, scopes=sorted(token_of(request).live_scopes)).model_dump())


class PasswordView(APIView):
    write_scope = "read"
    throttle_classes = (LoginRate,)

    @extend_schema(request=PasswordRequest, responses={204: None}, operation_id="me_password")
    def post(self, request: Request) -> Response:
        """Changes the own password and ends all logins, this one too; other tokens stay."""
        body = PasswordRequest.model_validate(request.data)
        password_change(user=request.user, old=body.old, new=body.new, by=actor_of(request))
        return Response(status=204)


class AuditView(APIView):
    read_scope = "admin"

    @extend_schema(operation_id="audit_list", parameters=[*AUDIT_FILTERS, *PAGE], responses=page_of(AuditShape))
    def get(self, request: Request) -> Response:
        """What happened in the project, newest first. For admins."""
        filters = {name: request.query_params.get(name, "") for name in ("object", "actor", "kind")}
        entries = audit_of(token_of(request), **filters)
        return ById().respond(entries, request, lambda rows: map(AuditShape.of, rows))


def _project_for(user: Any, name: str | None) -> Project:
    memberships = Membership.objects.filter(user=user).select_related("project").order_by("project__name")
    if name is not None:
        memberships = memberships.filter(project__name=name)
    membership = memberships.first()
    if membership is None:
        raise _no_member(user, name)
    return membership.project


def _no_member(user: Any, name: str | None) -> Problem:
    """403 that names the projects that the user may join."""
    message = f"You are not a member of {'any project' if name is None else f'project {name!r}'}."
    invitations = Invitation.objects.filter(user=user).select_related("project").order_by("project__name")
    projects = [invitation.project.name for invitation in invitations[:MAX_NAMED]]
    if not projects:
        return Problem("forbidden", message, status=403, hint="Ask an admin of a project to add you.")
    invited = f"You are invited to {', '.join(projects)}."
    hint = f"Log in with `join` to accept: anneal login URL --join {projects[0]}"
    return Problem("forbidden", f"{message} {invited}", status=403, hint=hint, fields={"join": projects})


class TokensView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="tokens_list", parameters=[*PAGE], responses=page_of(TokenShape))
    def get(self, request: Request) -> Response:
        """The caller's own of this project; an admin's list has all of the project. Newest first, dead ones too."""
        tokens = tokens_visible_to(token_of(request))
        return Cursor().respond(tokens, request, lambda rows: map(TokenShape.of, rows))

    @extend_schema(operation_id="tokens_create", request=TokenRequest, responses={201: NewTokenShape})
    def post(self, request: Request) -> Response:
        """A token of the same person with no more scopes. Needs a login or an admin's token."""
        body = TokenRequest.model_validate(request.data)
        plain, token = token_issue(parent=token_of(request), body=body, by=actor_of(request))
        return Response(NewTokenShape.of(token, token=plain).model_dump(), status=201)


class WorkerTokensView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="tokens_create_worker", request=WorkerTokenRequest, responses={201: NewTokenShape})
    def post(self, request: Request) -> Response:
        """A token for worker hosts, which serve every project. For superusers."""
        body = WorkerTokenRequest.model_validate(request.data)
        plain, token = worker_token_issue(parent=token_of(request), body=body, by=actor_of(request))
        return Response(NewTokenShape.of(token, token=plain).model_dump(), status=201)


class TokenView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="tokens_show", responses=TokenShape)
    def get(self, request: Request, token_id: UUID) -> Response:
        """One token, without its secret."""
        return Response(TokenShape.of(token_find_visible(token_of(request), token_id)).model_dump())

    @extend_schema(operation_id="tokens_revoke", responses={204: None})
    def delete(self, request: Request, token_id: UUID) -> Response:
        """Ends the token for good; again changes nothing."""
        token_revoke(token=token_find_visible(token_of(request), token_id), by=actor_of(request))
        return Response(status=204)


@transaction.atomic
def token_issue(*, parent: Token, body: TokenRequest, by: str) -> tuple[str, Token]:
    """A token of the same user. A login may create them for each of the user's projects, an admin token for its own.

    Raises Http404 if the user is no member of the project, Problem(403) for a scope that the caller does not have.
    """
    if not (parent.login or "admin" in parent.live_scopes):
        raise Problem("not_a_login", "Only a login or an admin's token makes tokens.", status=403, hint="Log in first.")
    project = _project(parent, body.project)
    allowed = parent.live_scopes if project.pk == parent.project_id else _scopes_in(parent, project)
    if beyond := sorted(set(body.scopes) - allowed):
        message = f"expected at most {', '.join(sorted(allowed))}, got {', '.join(beyond)}"
        raise Problem("scope_beyond", f"scopes: {message}.", status=403, fields={"scopes": [message]})
    ends = expiry(body.expires_in_days)
    if not parent.login and parent.expires_at is not None:
        ends = min(ends or parent.expires_at, parent.expires_at)
    return user_token_create(
        user=parent.user, project=project, name=body.name, scopes=body.scopes, expires_at=ends, by=by
    )


def worker_token_issue(*, parent: Token, body: WorkerTokenRequest, by: str) -> tuple[str, Token]:
    """For worker hosts, which serve every project. Raises Problem(403) unless the caller is a superuser."""
    if not is_superuser_token(parent):
        raise Problem("superuser_only", "Only a superuser makes worker tokens.", status=403)
    return worker_token_create(name=body.name, expires_at=expiry(body.expires_in_days), by=by)


def expiry(days: int | None) -> datetime | None:
    return None if days is None else timezone.now() + timedelta(days=days)


def _project(parent: Token, name: str | None) -> Project:
    assert parent.project is not None, "worker tokens make no tokens"
    if name is None or name == parent.project.name:
        return parent.project
    membership = Membership.objects.filter(user=parent.user, project__name=name).select_related("project").first()
    if membership is None or not parent.login:
        raise Http404(f"There is no project {name!r} that this token opens.")
    return membership.project


def _scopes_in(parent: Token, project: Project) -> frozenset[str]:
    role = Membership.objects.get(user=parent.user, project=project).role
    return frozenset(SCOPES_OF_ROLE[role])
