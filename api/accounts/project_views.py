"""Projects with their members and secrets, and new users."""

import re

from django.contrib.auth import get_user_model
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of, token_of
from api.accounts.models import Invitation, Membership
from api.accounts.schemas import (
    InvitationAnswer,
    InvitationShape,
    MemberRequest,
    MemberShape,
    NewUserShape,
    ProjectRequest,
    ProjectShape,
    ResetShape,
    SecretRequest,
    SecretShape,
    UserRequest,
    UserShape,
)
from api.accounts.secrets import secret_delete, secret_or_404, secret_put, secrets_of
from api.accounts.selectors import is_superuser_token, members_of, memberships_of, project_find, role_of
from api.accounts.users import (
    invitation_answer,
    member_remove,
    member_set,
    project_create,
    user_create,
    user_disable,
    user_enable,
    user_reset,
)
from api.environment import environment
from api.errors import ErrorShape, Problem
from api.openapi import page_of
from api.paging import PAGE, ById, Cursor
from trainers.contract.params.base import SECRET_NAME

MEMBER_RESPONSES = {200: MemberShape, 201: MemberShape, 202: MemberShape}


class ProjectsView(APIView):
    @extend_schema(operation_id="projects_list", parameters=[*PAGE], responses=page_of(ProjectShape))
    def get(self, request: Request) -> Response:
        """The caller's projects, those last joined first. A token opens one; log in again for another."""
        memberships = memberships_of(token_of(request))
        return ById().respond(
            memberships, request, lambda rows: [ProjectShape.of(row.project, row.role) for row in rows]
        )

    @extend_schema(operation_id="projects_create", request=ProjectRequest, responses={201: ProjectShape})
    def post(self, request: Request) -> Response:
        """A new project with the caller as its admin. By default only a superuser may. 409 where the name is taken."""
        body = ProjectRequest.model_validate(request.data)
        if environment().project_creation == "superuser" and not is_superuser_token(token_of(request)):
            raise PermissionDenied("Only a superuser makes projects here.")
        project = project_create(name=body.name, user=request.user, by=actor_of(request))
        return Response(ProjectShape.of(project, Membership.Role.ADMIN).model_dump(), status=201)


class ProjectView(APIView):
    @extend_schema(operation_id="projects_show", responses=ProjectShape)
    def get(self, request: Request, name: str) -> Response:
        """The project of the token; any for a superuser."""
        project = project_find(token_of(request), name)
        return Response(ProjectShape.of(project, role_of(token_of(request), project)).model_dump())


class MembersView(APIView):
    @extend_schema(operation_id="members_list", parameters=[*PAGE], responses=page_of(MemberShape))
    def get(self, request: Request, name: str) -> Response:
        """Who belongs to the project, newest first."""
        members = members_of(project_find(token_of(request), name))
        return ById().respond(members, request, lambda rows: map(MemberShape.of, rows))


class MemberView(APIView):
    write_scope = "read"
    """Enough to leave a project; the rest is checked below."""

    @extend_schema(operation_id="members_set", request=MemberRequest, responses=MEMBER_RESPONSES)
    def put(self, request: Request, name: str, username: str) -> Response:
        """Changes a member's role (200); invites others, who accept or not (202), or adds them for a superuser (201).

        For admins. 409 for the last admin, 403 where a superuser's role would change.
        """
        _need_admin(request)
        project = project_find(token_of(request), name)
        role = MemberRequest.model_validate(request.data).role
        rules = is_superuser_token(token_of(request))
        member, created = member_set(
            project=project, username=username, role=role, by=actor_of(request), by_superuser=rules
        )
        status = 202 if isinstance(member, Invitation) else 201 if created else 200
        return Response(MemberShape.of(member).model_dump(), status=status)

    @extend_schema(operation_id="members_remove", responses={204: None})
    def delete(self, request: Request, name: str, username: str) -> Response:
        """Takes the person out, or an invitation back; one may leave oneself. 409 for the last admin."""
        if username != request.user.get_username():
            _need_admin(request)
        project = project_find(token_of(request), name)
        rules = is_superuser_token(token_of(request))
        member_remove(project=project, username=username, by=actor_of(request), by_superuser=rules)
        return Response(status=204)


class InvitationsView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="invitations_list", parameters=[*PAGE], responses=page_of(InvitationShape))
    def get(self, request: Request) -> Response:
        """Projects that the caller was invited to and did not answer yet."""
        invitations = Invitation.objects.filter(user=token_of(request).user).select_related("project")
        return ById().respond(invitations, request, lambda rows: map(InvitationShape.of, rows))

    @extend_schema(operation_id="invitations_answer", request=InvitationAnswer, responses={204: None})
    def post(self, request: Request) -> Response:
        """Joins the project, or declines."""
        answer = InvitationAnswer.model_validate(request.data)
        invitation_answer(
            user=token_of(request).user, project=answer.project, accept=answer.accept, by=actor_of(request)
        )
        return Response(status=204)


class UsersView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_list", parameters=[*PAGE], responses=page_of(UserShape))
    def get(self, request: Request) -> Response:
        """Everybody, newest first. For superusers."""
        if not is_superuser_token(token_of(request)):
            raise PermissionDenied("Only a superuser sees everybody; see projects/{name}/members.")
        return ById().respond(get_user_model().objects.all(), request, lambda rows: map(UserShape.of, rows))

    @extend_schema(operation_id="users_create", request=UserRequest, responses={201: NewUserShape})
    def post(self, request: Request) -> Response:
        """A new person in the caller's project, with a first password. For admins. 409 where the name is taken."""
        body = UserRequest.model_validate(request.data)
        project = project_of(request)
        password = user_create(project=project, username=body.username, role=body.role, by=actor_of(request))
        user = NewUserShape(username=body.username, project=project.name, role=body.role, password=password)
        return Response(user.model_dump(), status=201)


class UserDisableView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_disable", request=None, responses=UserShape)
    def post(self, request: Request, username: str) -> Response:
        """Ends their logins and opens nothing for them any more. For superusers; 409 for the last active one."""
        _need_superuser(request)
        return Response(UserShape.of(user_disable(username=username, by=actor_of(request))).model_dump())


class UserEnableView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_enable", request=None, responses=UserShape)
    def post(self, request: Request, username: str) -> Response:
        """Lets them log in again; the tokens that they made for programs open again. For superusers."""
        _need_superuser(request)
        return Response(UserShape.of(user_enable(username=username, by=actor_of(request))).model_dump())


class UserResetView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_reset", request=None, responses=ResetShape)
    def post(self, request: Request, username: str) -> Response:
        """A new password, shown once; ends all their logins. For superusers."""
        _need_superuser(request)
        user, password = user_reset(username=username, by=actor_of(request))
        return Response(ResetShape(username=user.username, password=password).model_dump())


def _need_superuser(request: Request) -> None:
    if not is_superuser_token(token_of(request)):
        raise PermissionDenied("Only a superuser may do this.")


def _need_admin(request: Request) -> None:
    if "admin" not in token_of(request).live_scopes:
        raise PermissionDenied("This needs the scope admin.")


NAME = OpenApiParameter(
    "name", {"type": "string", "pattern": SECRET_NAME}, OpenApiParameter.PATH, description="Lower case."
)
REFUSED = {401: ErrorShape, 403: ErrorShape, 429: ErrorShape}


class SecretsView(APIView):
    read_scope = "admin"
    """Only admins see which secrets a project has."""

    @extend_schema(
        operation_id="secrets_list",
        parameters=[*PAGE],
        responses={200: page_of(SecretShape), 404: ErrorShape, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """Names and kinds, never values."""
        secrets = secrets_of(project_of(request))
        return Cursor().respond(secrets, request, lambda rows: map(SecretShape.of, rows))


class SecretView(APIView):
    read_scope = write_scope = "admin"

    @extend_schema(
        operation_id="secrets_show", parameters=[NAME], responses={200: SecretShape, 404: ErrorShape, **REFUSED}
    )
    def get(self, request: Request, name: str) -> Response:
        """One, without its value."""
        return Response(SecretShape.of(secret_or_404(project_of(request), name)).model_dump())

    @extend_schema(
        operation_id="secrets_put",
        parameters=[NAME],
        request=SecretRequest,
        responses={
            200: SecretShape, 201: SecretShape, 400: ErrorShape, 409: ErrorShape, 413: ErrorShape, 415: ErrorShape,
            **REFUSED,
        },
    )  # fmt: skip
    def put(self, request: Request, name: str) -> Response:
        """Sets the value: 201 for a new secret, 200 where it replaces one. 409 where the installation has no key."""
        body = _request(request)
        _name_check(name)
        project, by = project_of(request), actor_of(request)
        secret, created = secret_put(project=project, name=name, kind=body.kind, value=body.value, by=by)
        return Response(SecretShape.of(secret).model_dump(), status=201 if created else 200)

    @extend_schema(operation_id="secrets_delete", parameters=[NAME], responses={204: None, 404: ErrorShape, **REFUSED})
    def delete(self, request: Request, name: str) -> Response:
        """Attempts that run keep what they were given; later ones fail for want of it."""
        secret_delete(secret=secret_or_404(project_of(request), name), by=actor_of(request))
        return Response(status=204)


def _request(request: Request) -> SecretRequest:
    if not isinstance(request.data, dict):
        raise ValueError("expected a JSON object with kind and value")
    return SecretRequest.model_validate(request.data)


def _name_check(name: str) -> None:
    if not re.fullmatch(SECRET_NAME, name):
        message = f"expected 1 to 50 lower-case letters, digits and underscores, a letter first, got {name!r:.60}"
        raise Problem("invalid", f"name: {message}.", fields={"name": [message]})
