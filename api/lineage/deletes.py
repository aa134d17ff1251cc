"""Deletes datasets, base models, versions and adaptors that nothing uses. A later sweep removes their files."""

from collections.abc import Sequence
from typing import Any

from django.db import transaction

from api.catalog.adaptors.services import adaptor_audit
from api.catalog.models import Adaptor, PretrainedModelVersion
from api.catalog.models import VersionState as State
from api.catalog.removals import removal_add
from api.catalog.versions.create import AnyVersion, Record, version_audit, version_prefixes
from api.errors import Problem
from api.jobs.models import Job
from api.lineage.uses import UNFINISHED, templates_naming, uses_now

MAX_NAMED = 10
HINT = "Delete or change what is named, then try again."


@transaction.atomic
def record_delete(*, record: Record, by: str) -> None:
    """Also deletes all versions. Raises Problem 409 that names the jobs, templates and adaptors that use one."""
    locked = type(record).objects.select_for_update().get(pk=record.pk)
    rows = locked.versions.select_for_update(of=("self",)).select_related("record")
    versions: list[Any] = list(rows.order_by("version"))
    _unused_check(locked, versions, [locked.name, *(str(version) for version in versions)])
    _versions_delete(versions, by)
    locked.delete()


@transaction.atomic
def version_delete(*, version: AnyVersion, by: str) -> None:
    """Raises Problem 409 like `record_delete`. A bare name in a template counts if no other version is ready."""
    record = type(version.record).objects.select_for_update().get(pk=version.record_id)
    record.versions.select_for_update().filter(pk=version.pk).first()  # a submit holds it until its job is visible
    others = record.versions.exclude(pk=version.pk).filter(state=State.READY)
    names = [str(version)] if others.exists() else [str(version), record.name]
    _unused_check(record, [version], names)
    _versions_delete([version], by)


def _versions_delete(versions: Sequence[AnyVersion], by: str) -> None:
    for version in versions:
        version_audit(version, "version_deleted", by)
        for prefix in version_prefixes(version.key):
            removal_add(prefix=prefix)
        version.delete()


def _unused_check(record: Record, versions: Sequence[AnyVersion], names: Sequence[str]) -> None:
    users = {
        "jobs": _jobs(record, versions),
        "templates": templates_naming(record.project, record.versions.model, {*names})[:MAX_NAMED],
        "adaptors": _adaptors(versions),
    }
    if any(users.values()):
        uses = "; ".join(f"{kind} {', '.join(each[:MAX_NAMED])}" for kind, each in users.items() if each)
        raise Problem("in_use", f"{names[0]} is used by {uses}.", status=409, hint=HINT, fields=users)


def _jobs(record: Record, versions: Sequence[AnyVersion]) -> list[Any]:
    keys = [version.key for version in versions]
    jobs = Job.objects.filter(project=record.project_id, state__in=UNFINISHED, inputs__key__in=keys).distinct()
    return [f"{job.name} ({job.pk})" for job in jobs.only("name", "id").order_by("created")[:MAX_NAMED]]


def _adaptors(versions: Sequence[AnyVersion]) -> list[Any]:
    bases = [version.pk for version in versions if isinstance(version, PretrainedModelVersion)]
    return [str(adaptor) for adaptor in Adaptor.objects.filter(base_model__in=bases).order_by("created")[:MAX_NAMED]]


@transaction.atomic
def adaptor_delete(*, adaptor: Adaptor, by: str) -> None:
    """Raises Problem 409 that names the jobs and templates that need it.

    Locks before it checks: the submit of a job holds the same row until the job is visible.
    """
    locked = Adaptor.objects.select_for_update(of=("self",)).filter(pk=adaptor.pk).first()
    if locked is None:
        return
    uses = uses_now(locked)
    if users := uses.sentence():
        hint = "Cancel or delete the jobs, and name another adaptor in the templates."
        raise Problem("in_use", f"{locked} is needed by {users}.", status=409, hint=hint, fields=uses.fields())
    removal_add(prefix=f"{locked.key}/")
    adaptor_audit(locked, "adaptor_deleted", by)
    locked.delete()
