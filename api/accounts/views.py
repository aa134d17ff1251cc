"""Login, logout, the current user and their password, and the audit log."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import authenticate
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of, token_of
from api.accounts.limits import LoginRate
from api.accounts.members import invitation_answer
from api.accounts.models import Invitation, Membership, Project
from api.accounts.schemas import AuditShape, LoginRequest, LoginShape, MeShape, PasswordRequest
from api.accounts.selectors import audit_of
from api.accounts.tokens import token_revoke, user_token_create
from api.accounts.users import password_change
from api.errors import ErrorShape, Problem
from api.openapi import page_of
from api.paging import PAGE, ById

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
