"""Writes of the catalog: records, uploads, versions, adaptors."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Max

from api.accounts.models import Project
from api.catalog.checks import dataset_check
from api.catalog.filelist import files_check, stored_check
from api.catalog.model_check import model_check
from api.catalog.models import (
    KINDS,
    Adaptor,
    Dataset,
    DatasetVersion,
    PretrainedModel,
    PretrainedModelVersion,
    Upload,
)
from api.catalog.names import name_check
from api.errors import Problem
from api.files import storage
from api.sending import file_links, nothing_to_send
from trainers.spec import folder_digest

File = dict[str, Any]
Record = Dataset | PretrainedModel
AnyVersion = DatasetVersion | PretrainedModelVersion


def record_create(*, project: Project, kind: str, name: str) -> Record:
    """An empty dataset or base model. Raises Problem 409 where the name is taken."""
    rows, _ = KINDS[kind]
    name_check(name)
    try:
        with transaction.atomic():
            made: Record = rows.objects.create(project=project, name=name)
            return made
    except IntegrityError:
        said = f"{name!r} is there already; upload to it to add a version"
        raise Problem("name_taken", f"name: {said}.", status=409, fields={"name": [said]}) from None


def upload_create(*, record: Record, kind: str, files: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Signed links to PUT each file, large ones in parts. What the record has as a version needs no sending."""
    listed = files_check(files)
    _, versions = KINDS[kind]
    digest = folder_digest(listed)
    upload = Upload.objects.create(
        kind=kind, project_id=record.project_id, record_id=record.id, files=listed, digest=digest
    )
    known = versions.objects.filter(record=record, digest=digest).exists()
    return {"upload": upload.id, "files": [_upload_link(upload, file, known) for file in listed]}


def version_create(*, record: Record, upload: Upload) -> tuple[AnyVersion, bool]:
    """The version that the upload's content is, and whether it is new. Raises Problem that names the file at fault."""
    _, versions = KINDS[upload.kind]
    found = versions.objects.filter(record=record, digest=upload.digest).first()
    if found is not None:
        return found, False
    stored_check(storage(), upload.key, upload.files)
    details = (dataset_check if upload.kind == "datasets" else model_check)(storage(), upload.key, upload.files)
    with transaction.atomic():
        type(record).objects.select_for_update().get(pk=record.pk)
        defaults = _version_fields(versions, record, upload, details)
        version: AnyVersion
        version, made = versions.objects.get_or_create(record=record, digest=upload.digest, defaults=defaults)
        return version, made


@transaction.atomic
def adaptor_publish(
    *, job: Any, attempt: Any, manifest: Mapping[str, Any], files: Sequence[Mapping[str, Any]], partial: bool
) -> Adaptor:
    """The adaptor of an attempt: the files below `adaptor/` of its output. Idempotent by attempt.

    `files`: [{path, size, sha256}], already checked to lie in the storage below `attempt.prefix`.
    Raises Problem where there is none below `adaptor/`.
    """
    Project.objects.select_for_update().get(pk=job.project_id)
    if (found := Adaptor.objects.filter(attempt=attempt).first()) is not None:
        return found
    mine = [{**file, "path": file["path"].removeprefix("adaptor/")} for file in files if _is_adaptor_file(file)]
    if not mine:
        raise Problem("no_adaptor", "The finished attempt lists no file below adaptor/, so there is no adaptor.")
    mine = files_check(mine)
    params, base = job.spec["params"], job.spec["inputs"].get("model")
    name = str(params["adaptor_name"])
    last = Adaptor.objects.filter(project=job.project_id, name=name).aggregate(last=Max("version"))["last"]
    return Adaptor.objects.create(
        project_id=job.project_id,
        name=name,
        version=(last or 0) + 1,
        job=job,
        attempt=attempt,
        method=job.method,
        base_model=PretrainedModelVersion.objects.filter(key=base["key"]).first() if base else None,
        trigger_word=params.get("trigger_word", ""),
        partial=partial,
        key=f"{attempt.prefix}/adaptor",
        digest=folder_digest(mine),
        files=mine,
        size_bytes=sum(file["size"] for file in mine),
        manifest=dict(manifest),
        details=_adaptor_details(job, partial),
    )


def _is_adaptor_file(file: Mapping[str, Any]) -> bool:
    return str(file["path"]).startswith("adaptor/")


def _adaptor_details(job: Any, partial: bool) -> dict[str, Any]:
    params, base = job.spec["params"], job.spec["inputs"].get("model")
    return {
        "method": job.method,
        "trigger_word": params.get("trigger_word", ""),
        "base_sha256": base["sha256"] if base else None,
        "partial": partial,
    }


def _upload_link(upload: Upload, file: File, known: bool) -> dict[str, Any]:
    return nothing_to_send(file["path"]) if known else file_links(f"{upload.key}/{file['path']}", file)


def _version_fields(versions: type[Any], record: Record, upload: Upload, details: dict[str, Any]) -> dict[str, Any]:
    last = versions.objects.filter(record=record).aggregate(last=Max("version"))["last"]
    family = {"family": details["family"]} if "family" in details else {}
    return {
        "version": (last or 0) + 1,
        "key": upload.key,
        "files": upload.files,
        "num_files": len(upload.files),
        "size_bytes": sum(file["size"] for file in upload.files),
        "details": details,
        **family,
    }
