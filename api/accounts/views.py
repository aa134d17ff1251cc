"""Login, logout, who am I, and the own password."""

from datetime import timedelta
from typing import Any

from django.contrib.auth import authenticate
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of, token_of
from api.accounts.limits import LoginRate
from api.accounts.members import invitation_answer
from api.accounts.models import Invitation, Membership, Project
from api.accounts.shapes import LoginRequest, LoginShape, MeShape, PasswordRequest
from api.accounts.tokens import token_revoke, user_token_create
from api.accounts.users import password_change
from api.errors import ErrorShape, Problem

LOGIN_DAYS = 30
MAX_NAMED = 20
LOGIN_ANSWERS = {200: LoginShape, 401: ErrorShape, 403: ErrorShape, 404: ErrorShape}


class LoginView(APIView):
    authentication_classes = ()
    permission_classes = ()
    throttle_classes = (LoginRate,)

    @extend_schema(request=LoginRequest, responses=LOGIN_ANSWERS, operation_id="login", auth=[])
    def post(self, request: Request) -> Response:
        """A user token for a name and a password."""
        wanted = LoginRequest.model_validate(request.data)
        user = authenticate(request=request, username=wanted.username, password=wanted.password)
        if user is None:
            said = "The user name or the password is wrong."
            raise Problem("wrong_password", said, status=401, hint="Passwords are set by an admin.")
        by = f"user:{user.get_username()}"
        if wanted.join is not None:
            invitation_answer(user=user, project=wanted.join, accept=True, by=by)
        project = _project_for(user, wanted.join or wanted.project)
        expires_at = timezone.now() + timedelta(days=LOGIN_DAYS)
        plain, _ = user_token_create(user=user, project=project, name="login", expires_at=expires_at, login=True, by=by)
        return Response({"token": plain, "expires_at": expires_at, "project": project.name})


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
        return Response(
            {
                "user": request.user.get_username(),
                "project": project_of(request).name,
                "scopes": sorted(token_of(request).live_scopes),
            }
        )


class PasswordView(APIView):
    write_scope = "read"
    throttle_classes = (LoginRate,)

    @extend_schema(request=PasswordRequest, responses={204: None}, operation_id="me_password")
    def post(self, request: Request) -> Response:
        """Changes the own password and ends all logins, this one too; other tokens stay."""
        wanted = PasswordRequest.model_validate(request.data)
        password_change(user=request.user, old=wanted.old, new=wanted.new, by=actor_of(request))
        return Response(status=204)


def _project_for(user: Any, name: str | None) -> Project:
    memberships = Membership.objects.filter(user=user).select_related("project").order_by("project__name")
    if name is not None:
        memberships = memberships.filter(project__name=name)
    membership = memberships.first()
    if membership is None:
        raise _no_member(user, name)
    return membership.project


def _no_member(user: Any, name: str | None) -> Problem:
    """403 that names the projects which the person may join."""
    message = f"You are not a member of {'any project' if name is None else f'project {name!r}'}."
    invitations = Invitation.objects.filter(user=user).select_related("project").order_by("project__name")
    projects = [invitation.project.name for invitation in invitations[:MAX_NAMED]]
    if not projects:
        return Problem("forbidden", message, status=403, hint="Ask an admin of a project to add you.")
    invited = f"You are invited to {', '.join(projects)}."
    hint = f"Log in with `join` to accept: anneal login URL --join {projects[0]}"
    return Problem("forbidden", f"{message} {invited}", status=403, hint=hint, fields={"join": projects})
