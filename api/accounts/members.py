"""Writes of projects and of who belongs to them."""

from typing import Any

from django.contrib.auth import get_user_model
from django.db import IntegrityError, transaction
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Membership, Project
from api.catalog.names import name_check
from api.errors import Problem
from api.jobs.transitions import audit_add

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
def member_set(*, project: Project, username: str, role: str, by: str) -> tuple[Membership, bool]:
    """Gives the person that role, and says whether they are new. Raises Http404, Problem(409) for the last admin."""
    _lock(project)
    user = get_user_model().objects.filter(username=username).first()
    if user is None:
        raise Http404(f"There is no user {username!r}; make one with POST users.")
    before = Membership.objects.filter(project=project, user=user).first()
    if before is not None and before.role == role:
        return before, False
    if before is not None:
        _keep_an_admin(before)
    member, made = Membership.objects.update_or_create(project=project, user=user, defaults={"role": role})
    told = {"user": username, "role": role, "before": before and before.role}
    _audit(project, "member_set", by, told)
    return member, made


@transaction.atomic
def member_remove(*, project: Project, username: str, by: str) -> None:
    """Raises Http404, Problem(409) for the last admin. The person's tokens of the project are void from now on."""
    _lock(project)
    member = Membership.objects.filter(project=project, user__username=username).first()
    if member is None:
        raise Http404(f"{username!r} is no member of project {project.name!r}.")
    _keep_an_admin(member)
    member.delete()
    _audit(project, "member_removed", by, {"user": username, "role": member.role})


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
