"""Creates versions of stored files: those of an upload, or the output of a job.

`version_create` (upload) and `version_from_files` (job) run the same check; a version cannot be used before it is
`ready`. `api.catalog.versions.checks` completes versions that are `checking`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from api.audit.models import audit_add
from api.catalog.models import KINDS, Dataset, DatasetVersion, PretrainedModel, PretrainedModelVersion, Upload
from api.catalog.models import VersionState as State
from api.catalog.versions.check_run import CHECK_FAILED, Checked, files_key, folder_check, preview_prefix
from api.catalog.versions.filelist import files_check, stored_check, stripped_digest
from api.environment import environment
from api.errors import Problem
from api.storage import storage
from trainers.contract.spec import folder_digest

File = dict[str, Any]
Record = Dataset | PretrainedModel
AnyVersion = DatasetVersion | PretrainedModelVersion
MAX_FILES_NOW = 5_000
"""Uploads of more files are checked by the dispatcher, whatever their size."""


def version_create(
    *,
    record: Record,
    upload: Upload,
    by: str,
    source: Mapping[str, Any] | None = None,
) -> tuple[AnyVersion, bool]:
    """Returns the version with the upload's content, and whether it is new. `source` is stored in its details.

    The version of a large upload, or if no check slot is free, is `checking`. Raises Problem that names the invalid
    file and deletes the upload with its files, unless a file was not sent or the check itself failed.
    """
    strip_metadata = upload.digest == stripped_digest(upload.files)
    existing = same_content(record, upload.digest)
    if existing is not None:
        return existing, False
    details: dict[str, Any] = {"source": dict(source)} if source else {}
    details |= {"strip_metadata": True} if strip_metadata else {}
    stored_check(storage(), upload.key, upload.files)
    checked = None if _is_large(upload.files) else _check_now(record, upload, strip_metadata)
    if checked is None:
        later = {"key": upload.key, "unpack": upload.unpack, "state": State.CHECKING, "details": details}
        return _version_add(record, upload.files, upload.digest, later, by)
    values = ready_fields(checked)
    values["details"] = {**details, **values["details"]}
    version, created = _version_add(record, checked.files, folder_digest(checked.files), values, by)
    if version.key != upload.key:
        storage().delete_prefix(f"{upload.key}/")
    if not created and version.key != checked.key:
        prefixes_delete(checked.key)
    return version, created


def _check_now(record: Record, upload: Upload, strip_metadata: bool) -> Checked | None:
    """None if no check slot is free: the dispatcher checks the version later."""
    try:
        return folder_check(
            project=record.project_id,
            kind=upload.kind,
            key=upload.key,
            files=upload.files,
            unpack=upload.unpack,
            strip_metadata=strip_metadata,
            wait=False,
        )
    except Problem as problem:
        if problem.code != CHECK_FAILED:
            prefixes_delete(upload.key)
            upload.delete()
        raise


@transaction.atomic
def version_from_files(
    *, record: Record, key: str, files: Sequence[Mapping[str, Any]], source: Mapping[str, Any], by: str
) -> AnyVersion:
    """A `checking` version of `files` ([{path, size, sha256}]) below the storage prefix `key`.

    `source` (repo and commit, job, fused adaptors, ...) is stored as `details["source"]`. Returns an existing version
    with the same content. Reads no storage, so it can be part of a transaction; the dispatcher checks the files later.
    """
    listed = files_check(files)
    values = {"key": key, "state": State.CHECKING, "details": {"source": dict(source)}}
    return _version_add(record, listed, folder_digest(listed), values, by)[0]


def ready_fields(checked: Checked) -> dict[str, Any]:
    """Columns of a version that passed its check."""
    family = {"family": checked.details["family"]} if "family" in checked.details else {}
    return {"key": checked.key, "state": State.READY, "details": checked.details, **family}


def file_fields(files: Sequence[File], digest: str) -> dict[str, Any]:
    size_bytes = sum(file["size"] for file in files)
    return {"files": [*files], "digest": digest, "num_files": len(files), "size_bytes": size_bytes}


def prefixes_delete(key: str) -> None:
    """Deletes the files of a version, and those that a check wrote."""
    for prefix in version_prefixes(key):
        storage().delete_prefix(prefix)


def version_prefixes(key: str) -> list[str]:
    """The storage prefixes that belong to the version alone. Files that a job published belong to the job."""
    uploaded = [f"{key}/"] if key.startswith(tuple(f"{kind}/" for kind in KINDS)) else []
    written = files_key(key)
    return [*uploaded, preview_prefix(key), f"{written}/", preview_prefix(written)]


def _is_large(files: Sequence[File]) -> bool:
    return len(files) > MAX_FILES_NOW or sum(file["size"] for file in files) > environment().check_now_bytes


def same_content(record: Record, digest: str) -> AnyVersion | None:
    """The record's version of that digest that is not refused."""
    version: AnyVersion | None = record.versions.filter(digest=digest).exclude(state=State.REFUSED).first()
    return version


@transaction.atomic
def _version_add(
    record: Record, files: Sequence[File], digest: str, values: dict[str, Any], by: str
) -> tuple[AnyVersion, bool]:
    """Adds the record's next version, unless one has the same content."""
    locked = type(record).objects.select_for_update().get(pk=record.pk)
    if (existing := same_content(record, digest)) is not None:
        return existing, False
    highest = record.versions.aggregate(highest=Max("version"))["highest"] or 0
    locked.last_version = max(locked.last_version, highest) + 1
    locked.save(update_fields=["last_version"])
    version: AnyVersion = record.versions.create(version=locked.last_version, **file_fields(files, digest), **values)
    version_audit(version, "version_created", by)
    return version, True


def version_audit(version: AnyVersion, kind: str, by: str) -> None:
    audit_add(
        actor=by,
        kind=kind,
        object=f"{version._meta.model_name}:{version.pk}",
        at=timezone.now(),
        project_id=version.record.project_id,
        data={"version": str(version), "state": version.state, "digest": version.digest},
    )
