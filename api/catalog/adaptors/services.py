"""Writes of adaptors: published by a finished attempt, annotated by users."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from django.db import transaction
from django.utils import timezone
from pydantic import Field, StringConstraints

from api.accounts.models import Project
from api.audit.models import audit_add
from api.catalog.models import Adaptor, AdaptorName, AdaptorTag, PretrainedModelVersion
from api.catalog.versions.filelist import files_check
from api.errors import Problem
from formats.models.image_families import PREDICTIONS
from foundation.plain_text import PlainText, line_clean
from trainers.contract.params import params_class
from trainers.contract.params.base import Params
from trainers.contract.spec import Contract, folder_digest

Tag = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,49}$")]

MAX_TRIGGER = 200


class AdaptorEdit(Contract):
    """What is left out stays."""

    notes: PlainText | None = Field(None, max_length=10_000)
    tags: list[Tag] | None = Field(None, max_length=20)
    """All of them: those that are not named go."""


@transaction.atomic
def adaptor_publish(
    *, job: Any, attempt: Any, manifest: Mapping[str, Any], files: Sequence[Mapping[str, Any]], partial: bool
) -> Adaptor:
    """Publishes the files below `adaptor/` of an attempt's output. Idempotent per attempt.

    `files`: [{path, size, sha256}], which the caller found in the storage below `attempt.prefix`.
    Raises Problem if there is none below `adaptor/`.
    """
    Project.objects.select_for_update().get(pk=job.project_id)
    if (existing := Adaptor.objects.filter(attempt=attempt).first()) is not None:
        return existing
    listed = [{**file, "path": file["path"].removeprefix("adaptor/")} for file in files if _is_adaptor_file(file)]
    if not listed:
        raise Problem("no_adaptor", "The finished attempt lists no file below adaptor/, so there is no adaptor.")
    listed = files_check(listed)
    params, base = params_class(job.method).stored(job.spec["params"]), job.spec["inputs"].get("model")
    name = params.product_name
    trigger_word = _trigger_word(params, manifest)
    return Adaptor.objects.create(
        project_id=job.project_id,
        name=name,
        version=_version_take(job.project_id, name),
        job=job,
        attempt=attempt,
        method=job.method,
        base_model=PretrainedModelVersion.objects.filter(key=base["key"]).first() if base else None,
        trigger_word=trigger_word,
        partial=partial,
        key=f"{attempt.prefix}/adaptor",
        digest=folder_digest(listed),
        files=listed,
        size_bytes=sum(file["size"] for file in listed),
        manifest=dict(manifest),
        details=_details(job, manifest, trigger_word, partial),
    )


@transaction.atomic
def adaptor_edit(*, adaptor: Adaptor, edit: AdaptorEdit, by: str) -> None:
    if edit.notes is not None:
        Adaptor.objects.filter(pk=adaptor.pk).update(notes=edit.notes)
    if edit.tags is not None:
        adaptor.tags.all().delete()
        AdaptorTag.objects.bulk_create(AdaptorTag(adaptor=adaptor, name=name) for name in sorted(set(edit.tags)))
    adaptor_audit(adaptor, "adaptor_edited", by)


def _version_take(project_id: Any, name: str) -> int:
    """The next version of the name; the caller holds the lock of the project."""
    counter, _ = AdaptorName.objects.get_or_create(project_id=project_id, name=name)
    counter.last_version += 1
    counter.save(update_fields=["last_version"])
    return counter.last_version


def _is_adaptor_file(file: Mapping[str, Any]) -> bool:
    return str(file["path"]).startswith("adaptor/")


def _details(job: Any, manifest: Mapping[str, Any], trigger_word: str, partial: bool) -> dict[str, Any]:
    base = job.spec["inputs"].get("model")
    prediction = manifest.get("prediction_type")
    return {
        "method": job.method,
        "trigger_word": trigger_word,
        "base_sha256": base["sha256"] if base else None,
        "base_name": base["name"] if base else None,
        "partial": partial,
        **({"prediction_type": prediction} if prediction in PREDICTIONS else {}),
    }


def _trigger_word(params: Params, manifest: Mapping[str, Any]) -> str:
    """Of the parameters, else of the manifest, where the trainer writes that of an imported file."""
    word = params.product_trigger_word or manifest.get("trigger_word")
    return line_clean(word)[:MAX_TRIGGER] if isinstance(word, str) else ""


def adaptor_audit(adaptor: Adaptor, kind: str, by: str) -> None:
    name, data = f"adaptor:{adaptor.pk}", {"adaptor": str(adaptor)}
    audit_add(actor=by, kind=kind, object=name, project_id=adaptor.project_id, at=timezone.now(), data=data)
