"""Project secrets: encryption, writes and reads. Values are only decrypted for attempts (`api.jobs`)."""

import json
from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.db import transaction
from django.db.models import QuerySet
from django.http import Http404
from django.utils import timezone

from api.accounts.models import Project, ProjectSecret
from api.audit.models import audit_add
from api.environment import environment
from api.errors import Problem


class UnreadableError(ValueError):
    """No key decrypts it, or it was copied from another secret's row."""


def cipher() -> MultiFernet:
    """Raises Problem 409 if the operator has set no key."""
    keys = environment().fernet_keys
    if not keys:
        raise Problem(
            "secrets_off",
            "This installation keeps no project secrets, because ANNEAL_SECRETS_KEYS is not set.",
            status=409,
            hint="Ask the operator to set it to a key from `python -m api secrets_key`.",
        )
    return MultiFernet([Fernet(key) for key in keys])


def value_seal(secret: ProjectSecret, value: str) -> str:
    """The ciphertext for that row; `value_open` rejects it in any other."""
    return cipher().encrypt(json.dumps([_place(secret), value]).encode()).decode()


def value_open(secret: ProjectSecret) -> str:
    """Raises UnreadableError, or Problem if no key is set."""
    try:
        place, value = json.loads(cipher().decrypt(secret.ciphertext))
    except InvalidToken:
        raise UnreadableError(f"no key of ANNEAL_SECRETS_KEYS opens the secret {secret.name!r}") from None
    if place != _place(secret):
        raise UnreadableError(f"the ciphertext of {secret.name!r} belongs to another secret")
    return str(value)


def value_reseal(secret: ProjectSecret) -> str:
    """The same value under the first key. Raises UnreadableError."""
    try:
        return cipher().rotate(secret.ciphertext.encode()).decode()
    except InvalidToken:
        raise UnreadableError(f"no key of ANNEAL_SECRETS_KEYS opens the secret {secret.name!r}") from None


def _place(secret: ProjectSecret) -> str:
    return f"{secret.project_id}/{secret.name}/{secret.kind}"


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
