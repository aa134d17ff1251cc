"""Writes of users: created by an admin, with a password that they change themselves."""

import secrets
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import Http404
from django.utils import timezone

from api.accounts.members import member_set
from api.accounts.models import Project, Token
from api.accounts.tokens import token_revoke
from api.audit.services import audit_add
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
    _audit(user, "user_created", by, project)
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
    _audit(user, "password_changed", by, None)


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
        _audit(user, "user_disabled", by, None)
    return user


@transaction.atomic
def user_enable(*, username: str, by: str) -> Any:
    """Makes the user's other tokens valid again. Raises Http404."""
    user = _user_lock(username)
    if not user.is_active:
        user.is_active = True
        user.save(update_fields=["is_active"])
        _audit(user, "user_enabled", by, None)
    return user


@transaction.atomic
def user_reset(*, username: str, by: str) -> tuple[Any, str]:
    """Returns the user and a new password; ends all their logins. Raises Http404."""
    user, password = _user_lock(username), secrets.token_urlsafe(12)
    user.set_password(password)
    user.save(update_fields=["password"])
    logins_end(user=user, by=by)
    _audit(user, "password_reset", by, None)
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


def _audit(user: Any, kind: str, by: str, project: Project | None) -> None:
    at, project_id = timezone.now(), project.pk if project else None
    audit_add(actor=by, kind=kind, object=f"user:{user.get_username()}"[:100], at=at, project_id=project_id)
