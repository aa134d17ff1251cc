"""Projects, their members, and new people."""

from typing import Any

from django.contrib.auth import get_user_model
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of, token_of
from api.accounts.members import invitation_answer, member_remove, member_set, project_create
from api.accounts.models import Invitation, Membership, Project
from api.accounts.selectors import members_of, memberships_of, project_find, role_of, rules_all
from api.accounts.shapes import (
    InvitationAnswer,
    InvitationShape,
    MemberRequest,
    MemberShape,
    NewUserShape,
    ProjectRequest,
    ProjectShape,
    ResetShape,
    UserRequest,
    UserShape,
)
from api.accounts.users import user_create, user_disable, user_enable, user_reset
from api.environment import environment
from api.openapi import page_of
from api.paging import PAGE, Cursor

MEMBER_ANSWERS = {200: MemberShape, 201: MemberShape, 202: MemberShape}


class ById(Cursor):
    ordering = "-id"


class ProjectsView(APIView):
    @extend_schema(operation_id="projects_list", parameters=[*PAGE], responses=page_of(ProjectShape))
    def get(self, request: Request) -> Response:
        """The caller's projects, those last joined first. A token opens one; log in again for another."""
        pages = ById()
        rows: Any = pages.paginate_queryset(memberships_of(token_of(request)), request, view=self)
        return pages.get_paginated_response([_project(row.project, row.role) for row in rows])

    @extend_schema(operation_id="projects_create", request=ProjectRequest, responses={201: ProjectShape})
    def post(self, request: Request) -> Response:
        """A new project with the caller as its admin. By default only a superuser may. 409 where the name is taken."""
        wanted = ProjectRequest.model_validate(request.data)
        if environment().project_creation == "superuser" and not rules_all(token_of(request)):
            raise PermissionDenied("Only a superuser makes projects here.")
        project = project_create(name=wanted.name, user=request.user, by=actor_of(request))
        return Response(_project(project, Membership.Role.ADMIN), status=201)


class ProjectView(APIView):
    @extend_schema(operation_id="projects_show", responses=ProjectShape)
    def get(self, request: Request, name: str) -> Response:
        """The project of the token; any for a superuser."""
        project = project_find(token_of(request), name)
        return Response(_project(project, role_of(token_of(request), project)))


class MembersView(APIView):
    @extend_schema(operation_id="members_list", parameters=[*PAGE], responses=page_of(MemberShape))
    def get(self, request: Request, name: str) -> Response:
        """Who belongs to the project, newest first."""
        pages = ById()
        found = members_of(project_find(token_of(request), name))
        rows: Any = pages.paginate_queryset(found, request, view=self)
        return pages.get_paginated_response([_member(row) for row in rows])


class MemberView(APIView):
    write_scope = "read"
    """Leaving needs no more; the rest is checked below."""

    @extend_schema(operation_id="members_set", request=MemberRequest, responses=MEMBER_ANSWERS)
    def put(self, request: Request, name: str, username: str) -> Response:
        """Changes a member's role (200); invites others, who accept or not (202), or adds them for a superuser (201).

        For admins. 409 for the last admin, 403 where a superuser's role would change.
        """
        _need_admin(request)
        project = project_find(token_of(request), name)
        role = MemberRequest.model_validate(request.data).role
        rules = rules_all(token_of(request))
        member, made = member_set(
            project=project, username=username, role=role, by=actor_of(request), by_superuser=rules
        )
        status = 202 if isinstance(member, Invitation) else 201 if made else 200
        return Response(_member(member), status=status)

    @extend_schema(operation_id="members_remove", responses={204: None})
    def delete(self, request: Request, name: str, username: str) -> Response:
        """Takes the person out, or an invitation back; one may leave oneself. 409 for the last admin."""
        if username != request.user.get_username():
            _need_admin(request)
        project = project_find(token_of(request), name)
        rules = rules_all(token_of(request))
        member_remove(project=project, username=username, by=actor_of(request), by_superuser=rules)
        return Response(status=204)


class InvitationsView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="invitations_list", parameters=[*PAGE], responses=page_of(InvitationShape))
    def get(self, request: Request) -> Response:
        """Projects that the caller was invited to and did not answer yet."""
        pages = ById()
        found = Invitation.objects.filter(user=token_of(request).user).select_related("project")
        rows: Any = pages.paginate_queryset(found, request, view=self)
        return pages.get_paginated_response([_invitation(row) for row in rows])

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
        if not rules_all(token_of(request)):
            raise PermissionDenied("Only a superuser sees everybody; see projects/{name}/members.")
        pages = ById()
        rows: Any = pages.paginate_queryset(get_user_model().objects.all(), request, view=self)
        return pages.get_paginated_response([_user(row) for row in rows])

    @extend_schema(operation_id="users_create", request=UserRequest, responses={201: NewUserShape})
    def post(self, request: Request) -> Response:
        """A new person in the caller's project, with a first password. For admins. 409 where the name is taken."""
        wanted = UserRequest.model_validate(request.data)
        project = project_of(request)
        password = user_create(project=project, username=wanted.username, role=wanted.role, by=actor_of(request))
        return Response({**wanted.model_dump(), "project": project.name, "password": password}, status=201)


class UserDisableView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_disable", request=None, responses=UserShape)
    def post(self, request: Request, username: str) -> Response:
        """Ends their logins and opens nothing for them any more. For superusers; 409 for the last active one."""
        _need_superuser(request)
        return Response(_user(user_disable(username=username, by=actor_of(request))))


class UserEnableView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_enable", request=None, responses=UserShape)
    def post(self, request: Request, username: str) -> Response:
        """Lets them log in again; the tokens that they made for programs open again. For superusers."""
        _need_superuser(request)
        return Response(_user(user_enable(username=username, by=actor_of(request))))


class UserResetView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="users_reset", request=None, responses=ResetShape)
    def post(self, request: Request, username: str) -> Response:
        """A new password, shown once; ends all their logins. For superusers."""
        _need_superuser(request)
        user, password = user_reset(username=username, by=actor_of(request))
        return Response({"username": user.username, "password": password})


def _need_superuser(request: Request) -> None:
    if not rules_all(token_of(request)):
        raise PermissionDenied("Only a superuser may do this.")


def _need_admin(request: Request) -> None:
    if "admin" not in token_of(request).live_scopes:
        raise PermissionDenied("This needs the scope admin.")


def _project(project: Project, role: str | None) -> dict[str, Any]:
    return {"name": project.name, "role": role, "created": project.created}


def _member(member: Membership | Invitation) -> dict[str, Any]:
    return {"user": member.user.get_username(), "role": member.role, "accepted": isinstance(member, Membership)}


def _invitation(invitation: Invitation) -> dict[str, Any]:
    by = invitation.invited_by.removeprefix("user:")
    return {"project": invitation.project.name, "role": invitation.role, "by": by, "created": invitation.created}


def _user(user: Any) -> dict[str, Any]:
    return {
        "username": user.username,
        "active": user.is_active,
        "superuser": user.is_superuser,
        "created": user.date_joined,
        "last_login": user.last_login,
    }
