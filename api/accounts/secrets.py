"""Writes and reads of project secrets. Values are only decrypted for attempts (`api.jobs`)."""

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
    """Returns the secret and whether it is new. Raises Problem 409 if secrets are disabled."""
    at = timezone.now()
    Project.objects.select_for_update().get(pk=project.pk)
    existing = ProjectSecret.objects.filter(project=project, name=name).first()
    secret = existing or ProjectSecret(project=project, name=name)
    secret.kind = kind
    secret.rotated = at if existing else None
    secret.ciphertext = value_seal(secret, value)
    secret.save()
    _audit(secret, "secret_replaced" if existing else "secret_created", by, at)
    return secret, existing is None


@transaction.atomic
def secret_delete(*, secret: ProjectSecret, by: str) -> None:
    _audit(secret, "secret_deleted", by, timezone.now())
    secret.delete()


def secrets_rotate(*, by: str) -> tuple[int, list[str]]:
    """Re-encrypts all values with the first key. Returns their number and a message for each unreadable one."""
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
    secret = secrets_of(project).filter(name=name).first()
    if secret is None:
        raise Http404(f"There is no secret {name!r:.60} in project {project.name!r}.")
    return secret


def secrets_named(project_id: UUID, names: Iterable[str]) -> dict[str, ProjectSecret]:
    """The existing secrets of those names."""
    secrets = ProjectSecret.objects.filter(project_id=project_id, name__in=list(names))
    return {secret.name: secret for secret in secrets}


@transaction.atomic
def _reseal(pk: UUID, by: str) -> int:
    """Under a lock, so that a value that is replaced at the same time is not overwritten."""
    secret = ProjectSecret.objects.select_for_update().filter(pk=pk).first()
    if secret is None:
        return 0
    secret.ciphertext = value_reseal(secret)
    secret.save(update_fields=["ciphertext"])
    _audit(secret, "secret_reencrypted", by, timezone.now())
    return 1


def _audit(secret: ProjectSecret, kind: str, by: str, at: datetime) -> None:
    data = {"kind": secret.kind}
    audit_add(actor=by, kind=kind, object=f"secret:{secret.name}", at=at, project_id=secret.project_id, data=data)
