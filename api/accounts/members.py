"""Writes of projects and of who belongs to them."""

from typing import Any

from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Invitation, Membership, Project
from api.audit.names import name_check
from api.audit.services import audit_add
from api.errors import Problem

ADMIN = Membership.Role.ADMIN


@transaction.atomic
def project_create(*, name: str, user: Any, by: str) -> Project:
    """A new project with `user` as its admin. Raises Problem(409) where the name is taken."""
    try:
        with transaction.atomic():
            project = Project.objects.create(name=name_check(name))
    except IntegrityError:
        said = f"There is a project {name!r} already."
        raise Problem("name_taken", said, status=409, fields={"name": ["is taken"]}) from None
    Membership.objects.create(project=project, user=user, role=ADMIN)
    _audit(project, "project_created", by, {"name": name})
    return project


@transaction.atomic
def member_set(
    *, project: Project, username: str, role: str, by: str, by_superuser: bool
) -> tuple[Membership | Invitation, bool]:
    """Gives a member that role; others are invited, or joined at once by a superuser. Also whether they are new.

    Raises Http404, Problem(409) for the last admin, Problem(403) where a superuser would lose rights.
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
        _keep_a_superuser(before, by_superuser)
        _keep_an_admin(before)
    return _join(project, user, role, by)


@transaction.atomic
def member_remove(*, project: Project, username: str, by: str, by_superuser: bool) -> None:
    """Also withdraws an invitation. The person's tokens of the project are void from now on.

    Raises Http404, Problem(409) for the last admin, Problem(403) for a superuser who does not leave themselves.
    """
    _lock(project)
    invited, _ = Invitation.objects.filter(project=project, user__username=username).delete()
    member = Membership.objects.filter(project=project, user__username=username).select_related("user").first()
    if member is None and invited:
        _audit(project, "invitation_withdrawn", by, {"user": username})
        return
    if member is None:
        raise Http404(f"{username!r} is no member of project {project.name!r}.")
    _keep_a_superuser(member, by_superuser or by == f"user:{username}")
    _keep_an_admin(member)
    member.delete()
    _audit(project, "member_removed", by, {"user": username, "role": member.role})


@transaction.atomic
def invitation_answer(*, user: Any, project: str, accept: bool, by: str) -> None:
    """Makes the person a member, or forgets the invitation. Raises Http404 where there is none."""
    found = Invitation.objects.filter(user=user, project__name=project).select_related("project").first()
    if found is None:
        raise Http404(f"There is no invitation of yours to a project {project!r}.")
    _lock(found.project)
    if accept:
        _join(found.project, user, found.role, by)
    else:
        found.delete()
        _audit(found.project, "invitation_declined", by, {"user": user.get_username()})


def _invite(project: Project, user: Any, role: str, by: str) -> tuple[Invitation, bool]:
    values = {"role": role, "invited_by": by}
    invitation, created = Invitation.objects.update_or_create(project=project, user=user, defaults=values)
    _audit(project, "member_invited", by, {"user": user.get_username(), "role": role})
    return invitation, created


def _join(project: Project, user: Any, role: str, by: str) -> tuple[Membership, bool]:
    Invitation.objects.filter(project=project, user=user).delete()
    before = Membership.objects.filter(project=project, user=user).first()
    member, created = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    _audit(project, "member_set", by, {"user": user.get_username(), "role": role, "before": before and before.role})
    return member, created


def _keep_a_superuser(member: Membership, allowed: bool) -> None:
    """Whatever role a superuser has in a project, no admin of that project takes it."""
    if member.user.is_superuser and not allowed:
        message = f"{member.user} is a superuser; only a superuser changes their role."
        raise Problem("superuser_only", message, status=403)


def _lock(project: Project) -> None:
    """Two admins who remove one another at once must not both succeed."""
    Project.objects.select_for_update().get(pk=project.pk)


def _keep_an_admin(member: Membership) -> None:
    others = Membership.objects.filter(project=member.project_id, role=ADMIN).exclude(pk=member.pk)
    if member.role == ADMIN and not others.exists():
        said = "The last admin of a project stays its admin."
        raise Problem("last_admin", said, status=409, hint="Make another member admin first.")


def _audit(project: Project, kind: str, by: str, data: dict[str, Any]) -> None:
    at = timezone.now()
    audit_add(actor=by, kind=kind, object=f"project:{project.pk}", at=at, project_id=project.pk, data=data)
