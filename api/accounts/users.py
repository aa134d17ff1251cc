"""Writes of users, projects and members. An admin creates users with a password that they change themselves."""

import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Invitation, Membership, Project, Token
from api.accounts.tokens import token_revoke
from api.audit.models import audit_add
from api.audit.names import name_check
from api.errors import Problem, invalid


@transaction.atomic
def user_create(*, project: Project, username: str, role: str, by: str) -> str:
    """Creates a user in the project and returns the initial password. Raises Problem(409) if the name is taken."""
    password = secrets.token_urlsafe(12)
    users = get_user_model().objects
    try:
        if users.filter(username__iexact=username).exists():
            raise IntegrityError
        with transaction.atomic():
            user = users.create_user(username=username, password=password)
    except IntegrityError:
        message = f"There is a user {username!r} already."
        hint = "Add them with PUT projects/{name}/members/{user}."
        raise Problem("name_taken", message, status=409, hint=hint, fields={"username": ["is taken"]}) from None
    _user_audit(user, "user_created", by, project)
    member_set(
        project=project, username=username, role=role, by=by, by_superuser=True
    )  # a new user needs no invitation
    return password


@transaction.atomic
def password_change(*, user: Any, old: str, new: str, by: str) -> None:
    """Ends all logins of the user, the current one too; other tokens stay valid. Raises Problem."""
    if not user.check_password(old):
        raise invalid({"old": ["is not your password"]})
    try:
        validate_password(new, user)
    except ValidationError as error:
        raise invalid({"new": error.messages}) from None
    user.set_password(new)
    user.save(update_fields=["password"])
    logins_end(user=user, by=by)
    _user_audit(user, "password_changed", by, None)


@transaction.atomic
def user_disable(*, username: str, by: str) -> Any:
    """Revokes the user's logins, and suspends all other tokens until `user_enable`.

    Raises Http404, Problem(409) for the last active superuser.
    """
    supers = list(get_user_model().objects.select_for_update().filter(is_superuser=True, is_active=True))
    user = _user_lock(username)
    if supers == [user]:
        message = f"{username!r} is the only active superuser; without one nobody could enable anybody again."
        raise Problem("last_superuser", message, status=409, hint="Make another superuser in the panel first.")
    if user.is_active:
        user.is_active = False
        user.save(update_fields=["is_active"])
        logins_end(user=user, by=by)
        _user_audit(user, "user_disabled", by, None)
    return user


@transaction.atomic
def user_enable(*, username: str, by: str) -> Any:
    """Makes the user's other tokens valid again. Raises Http404."""
    user = _user_lock(username)
    if not user.is_active:
        user.is_active = True
        user.save(update_fields=["is_active"])
        _user_audit(user, "user_enabled", by, None)
    return user


@transaction.atomic
def user_reset(*, username: str, by: str) -> tuple[Any, str]:
    """Returns the user and a new password; ends all their logins. Raises Http404."""
    user, password = _user_lock(username), secrets.token_urlsafe(12)
    user.set_password(password)
    user.save(update_fields=["password"])
    logins_end(user=user, by=by)
    _user_audit(user, "password_reset", by, None)
    return user, password


def _user_lock(username: str) -> Any:
    user = get_user_model().objects.select_for_update().filter(username=username).first()
    if user is None:
        raise Http404(f"There is no user {username!r}.")
    return user


@transaction.atomic
def logins_end(*, user: Any, by: str) -> None:
    """Revokes every token that was created with the password."""
    for token in Token.objects.filter(user=user, login=True, revoked_at=None):
        token_revoke(token=token, by=by)


def _user_audit(user: Any, kind: str, by: str, project: Project | None) -> None:
    at, project_id = timezone.now(), project.pk if project else None
    audit_add(actor=by, kind=kind, object=f"user:{user.get_username()}"[:100], at=at, project_id=project_id)


ADMIN = Membership.Role.ADMIN


@transaction.atomic
def project_create(*, name: str, user: Any, by: str) -> Project:
    """A new project with `user` as its admin. Raises Problem(409) if the name is taken."""
    try:
        with transaction.atomic():
            project = Project.objects.create(name=name_check(name))
    except IntegrityError:
        message = f"There is a project {name!r} already."
        raise Problem("name_taken", message, status=409, fields={"name": ["is taken"]}) from None
    Membership.objects.create(project=project, user=user, role=ADMIN)
    _project_audit(project, "project_created", by, {"name": name})
    return project


@transaction.atomic
def member_set(
    *, project: Project, username: str, role: str, by: str, by_superuser: bool
) -> tuple[Membership | Invitation, bool]:
    """Sets a member's role; invites other users, or adds them at once for a superuser. Also returns whether it is new.

    Raises Http404, Problem(409) for the last admin, Problem(403) if a superuser would lose rights.
    """
    _lock(project)
    user = get_user_model().objects.filter(username=username).first()
    if user is None:
        raise Http404(f"There is no user {username!r}; make one with POST users.")
    before = Membership.objects.filter(project=project, user=user).first()
    if before is None and not by_superuser:
        return _invite(project, user, role, by)
    if before is not None and before.role == role:
        return before, False
    if before is not None:
        _superuser_check(before, by_superuser)
        _last_admin_check(before)
    return _join(project, user, role, by)


@transaction.atomic
def member_remove(*, project: Project, username: str, by: str, by_superuser: bool) -> None:
    """Removes a member, whose tokens of the project become invalid, or withdraws an invitation.

    Raises Http404, Problem(409) for the last admin, Problem(403) for a superuser unless they leave themselves.
    """
    _lock(project)
    invited, _ = Invitation.objects.filter(project=project, user__username=username).delete()
    member = Membership.objects.filter(project=project, user__username=username).select_related("user").first()
    if member is None and invited:
        _project_audit(project, "invitation_withdrawn", by, {"user": username})
        return
    if member is None:
        raise Http404(f"{username!r} is no member of project {project.name!r}.")
    _superuser_check(member, by_superuser or by == f"user:{username}")
    _last_admin_check(member)
    member.delete()
    _project_audit(project, "member_removed", by, {"user": username, "role": member.role})


@transaction.atomic
def invitation_answer(*, user: Any, project: str, accept: bool, by: str) -> None:
    """Makes the user a member, or deletes the invitation. Raises Http404 if there is none."""
    invitation = Invitation.objects.filter(user=user, project__name=project).select_related("project").first()
    if invitation is None:
        raise Http404(f"There is no invitation of yours to a project {project!r}.")
    _lock(invitation.project)
    if accept:
        _join(invitation.project, user, invitation.role, by)
    else:
        invitation.delete()
        _project_audit(invitation.project, "invitation_declined", by, {"user": user.get_username()})


def _invite(project: Project, user: Any, role: str, by: str) -> tuple[Invitation, bool]:
    values = {"role": role, "invited_by": by}
    invitation, created = Invitation.objects.update_or_create(project=project, user=user, defaults=values)
    _project_audit(project, "member_invited", by, {"user": user.get_username(), "role": role})
    return invitation, created


def _join(project: Project, user: Any, role: str, by: str) -> tuple[Membership, bool]:
    Invitation.objects.filter(project=project, user=user).delete()
    before = Membership.objects.filter(project=project, user=user).first()
    member, created = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    _project_audit(
        project, "member_set", by, {"user": user.get_username(), "role": role, "before": before and before.role}
    )
    return member, created


def _superuser_check(member: Membership, allowed: bool) -> None:
    """Raises Problem: an admin of the project may not change the role of a superuser."""
    if member.user.is_superuser and not allowed:
        message = f"{member.user} is a superuser; only a superuser changes their role."
        raise Problem("superuser_only", message, status=403)


def _lock(project: Project) -> None:
    """So that of two admins who remove each other at the same time only one succeeds."""
    Project.objects.select_for_update().get(pk=project.pk)


def _last_admin_check(member: Membership) -> None:
    others = Membership.objects.filter(project=member.project_id, role=ADMIN).exclude(pk=member.pk)
    if member.role == ADMIN and not others.exists():
        message = "The last admin of a project stays its admin."
        raise Problem("last_admin", message, status=409, hint="Make another member admin first.")


def _project_audit(project: Project, kind: str, by: str, data: dict[str, Any]) -> None:
    at = timezone.now()
    audit_add(actor=by, kind=kind, object=f"project:{project.pk}", at=at, project_id=project.pk, data=data)
