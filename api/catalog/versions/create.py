"""Versions of files that lie in the storage already: an upload's, or what a job fetched or made.

`version_create` (of an upload) and `version_from_files` (of a job) lead to the same check; nothing can use a version
before it is `ready`. `api.catalog.versions.checks` finishes those that are `checking`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Max
from django.utils import timezone

from api.audit.services import audit_add
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
"""Uploads of more files are checked by the dispatcher, however small they are."""


def version_create(
    *,
    record: Record,
    upload: Upload,
    by: str,
    source: Mapping[str, Any] | None = None,
) -> tuple[AnyVersion, bool]:
    """The version that the upload's content is, and whether it is new. `source` is kept as details["source"].

    Large uploads, and those that find no free check slot, are `checking` when this returns. Raises Problem that names
    the file at fault; the upload and its files are gone then, unless a file was not sent or the check itself failed.
    """
    strip_metadata = upload.digest == stripped_digest(upload.files)
    found = same_content(record, upload.digest)
    if found is not None:
        return found, False
    told: dict[str, Any] = {"source": dict(source)} if source else {}
    told |= {"strip_metadata": True} if strip_metadata else {}
    stored_check(storage(), upload.key, upload.files)
    checked = None if _is_large(upload.files) else _check_now(record, upload, strip_metadata)
    if checked is None:
        later = {"key": upload.key, "unpack": upload.unpack, "state": State.CHECKING, "details": told}
        return _version_add(record, upload.files, upload.digest, later, by)
    values = ready_fields(checked)
    values["details"] = {**told, **values["details"]}
    version, made = _version_add(record, checked.files, folder_digest(checked.files), values, by)
    if version.key != upload.key:
        storage().delete_prefix(f"{upload.key}/")
    if not made and version.key != checked.key:
        prefixes_delete(checked.key)
    return version, made


def _check_now(record: Record, upload: Upload, strip_metadata: bool) -> Checked | None:
    """None while other checks run, of this project or of all: the dispatcher takes it up."""
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
    """A `checking` version of `files` ([{path, size, sha256}]), which lie below the storage prefix `key`.

    `source` (repo and commit, job, fused adaptors, ...) is kept as `details["source"]`. The same content again is the
    version that is there. Reads no storage, so that it can be part of your transaction; the dispatcher checks the files
    soon and makes the version ready or refused.
    """
    listed = files_check(files)
    values = {"key": key, "state": State.CHECKING, "details": {"source": dict(source)}}
    return _version_add(record, listed, folder_digest(listed), values, by)[0]


def ready_fields(checked: Checked) -> dict[str, Any]:
    """Columns of a version that was found good."""
    family = {"family": checked.details["family"]} if "family" in checked.details else {}
    return {"key": checked.key, "state": State.READY, "details": checked.details, **family}


def file_fields(files: Sequence[File], digest: str) -> dict[str, Any]:
    size_bytes = sum(file["size"] for file in files)
    return {"files": [*files], "digest": digest, "num_files": len(files), "size_bytes": size_bytes}


def prefixes_delete(key: str) -> None:
    """Removes the files of a version that is none, and what a check made of them."""
    for prefix in version_prefixes(key):
        storage().delete_prefix(prefix)


def version_prefixes(key: str) -> list[str]:
    """All that the storage holds of a version alone. Files that a job published stay the job's."""
    own = [f"{key}/"] if key.startswith(tuple(f"{kind}/" for kind in KINDS)) else []
    made = files_key(key)
    return [*own, preview_prefix(key), f"{made}/", preview_prefix(made)]


def _is_large(files: Sequence[File]) -> bool:
    return len(files) > MAX_FILES_NOW or sum(file["size"] for file in files) > environment().check_now_bytes


def same_content(record: Record, digest: str) -> AnyVersion | None:
    """The record's version of that digest that may be used, now or soon."""
    found: AnyVersion | None = record.versions.filter(digest=digest).exclude(state=State.REFUSED).first()
    return found


@transaction.atomic
def _version_add(
    record: Record, files: Sequence[File], digest: str, values: dict[str, Any], by: str
) -> tuple[AnyVersion, bool]:
    """The record's next version, or the one that has this content."""
    locked = type(record).objects.select_for_update().get(pk=record.pk)
    if (found := same_content(record, digest)) is not None:
        return found, False
    highest = record.versions.aggregate(highest=Max("version"))["highest"] or 0
    locked.last_version = max(locked.last_version, highest) + 1
    locked.save(update_fields=["last_version"])
    made: AnyVersion = record.versions.create(version=locked.last_version, **file_fields(files, digest), **values)
    version_audit(made, "version_created", by)
    return made, True


def version_audit(version: AnyVersion, kind: str, by: str) -> None:
    audit_add(
        actor=by,
        kind=kind,
        object=f"{version._meta.model_name}:{version.pk}",
        at=timezone.now(),
        project_id=version.record.project_id,
        data={"version": str(version), "state": version.state, "digest": version.digest},
    )
