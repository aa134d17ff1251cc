"""Writes and reads of project secrets. A value goes in, and comes out for an attempt alone (`api.jobs`)."""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Project, ProjectSecret
from api.accounts.secrets_cipher import UnreadableError, value_reseal, value_seal
from api.audit.services import audit_add


@transaction.atomic
def secret_put(*, project: Project, name: str, kind: str, value: str, by: str) -> tuple[ProjectSecret, bool]:
    """The secret, and whether it is new. Raises Problem 409 where secrets are off."""
    at = timezone.now()
    Project.objects.select_for_update().get(pk=project.pk)
    found = ProjectSecret.objects.filter(project=project, name=name).first()
    secret = found or ProjectSecret(project=project, name=name)
    secret.kind = kind
    secret.rotated = at if found else None
    secret.ciphertext = value_seal(secret, value)
    secret.save()
    _audit(secret, "secret_replaced" if found else "secret_created", by, at)
    return secret, found is None


@transaction.atomic
def secret_delete(*, secret: ProjectSecret, by: str) -> None:
    _audit(secret, "secret_deleted", by, timezone.now())
    secret.delete()


def secrets_rotate(*, by: str) -> tuple[int, list[str]]:
    """Encrypts all values anew with the first key: how many, and a sentence for each that no key opens."""
    count, unreadable = 0, []
    for pk in ProjectSecret.objects.order_by("pk").values_list("pk", flat=True):
        try:
            count += _reseal(pk, by)
        except UnreadableError as error:
            unreadable.append(str(error))
    return count, unreadable


def secrets_of(project: Project) -> QuerySet[ProjectSecret]:
    return ProjectSecret.objects.filter(project=project).defer("ciphertext")


def secret_or_404(project: Project, name: str) -> ProjectSecret:
    found = secrets_of(project).filter(name=name).first()
    if found is None:
        raise Http404(f"There is no secret {name!r:.60} in project {project.name!r}.")
    return found


def secrets_named(project_id: UUID, names: Iterable[str]) -> dict[str, ProjectSecret]:
    """Those of the names that are there."""
    return {found.name: found for found in ProjectSecret.objects.filter(project_id=project_id, name__in=list(names))}


@transaction.atomic
def _reseal(pk: UUID, by: str) -> int:
    """Locked, so that a value that is replaced meanwhile is not put back."""
    secret = ProjectSecret.objects.select_for_update().filter(pk=pk).first()
    if secret is None:
        return 0
    secret.ciphertext = value_reseal(secret)
    secret.save(update_fields=["ciphertext"])
    _audit(secret, "secret_reencrypted", by, timezone.now())
    return 1


def _audit(secret: ProjectSecret, kind: str, by: str, at: datetime) -> None:
    told = {"kind": secret.kind}
    audit_add(actor=by, kind=kind, object=f"secret:{secret.name}", at=at, project_id=secret.project_id, data=told)
