"""Writes of records and uploads: signed links, parts joined into files, and the sweep of abandoned uploads."""

import logging
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from api.accounts.models import Project
from api.audit.models import audit_add
from api.audit.names import name_check
from api.catalog.models import KINDS, Dataset, PretrainedModel, Upload, VersionState
from api.catalog.versions.filelist import archive_check, files_check, stripped_digest
from api.catalog.versions.schemas import JoinedShape, UploadShape
from api.environment import environment
from api.errors import Problem
from api.storage import in_parallel, storage
from api.upload_links import Parts, UploadLinkShape, links_check, parts_count, parts_join, upload_link
from trainers.contract.spec import folder_digest

log = logging.getLogger(__name__)

File = dict[str, Any]
Record = Dataset | PretrainedModel
LATEST_HOURS = 1
"""Between the deadline of an upload and its removal, so that a version that was created in time can be checked."""
SWEEP_AT_ONCE = 100
MAX_OPEN = 1_000
"""Open uploads of one project."""
MAX_OPEN_PARTS = 20_000
"""Of the large files of open uploads."""


def record_create(*, project: Project, kind: str, name: str) -> Record:
    """An empty dataset or base model. Raises Problem 409 if the name is taken."""
    rows, _ = KINDS[kind]
    name_check(name)
    try:
        with transaction.atomic():
            record: Record = rows.objects.create(project=project, name=name)
            return record
    except IntegrityError:
        message = f"{name!r} is there already; upload to it to add a version"
        raise Problem("name_taken", f"name: {message}.", status=409, fields={"name": [message]}) from None


def upload_create(
    *,
    record: Record,
    kind: str,
    files: Sequence[Mapping[str, Any]],
    unpack: bool = False,
    strip_metadata: bool = False,
) -> UploadShape:
    """Signed links to PUT each file, large files in parts; none if the record has this content as a version.

    `unpack`: the files are one zip, whose content becomes the version. `strip_metadata`: remove that of its images.
    """
    listed = files_check(files)
    links_check(listed)
    if unpack:
        archive_check(listed)
    _, versions = KINDS[kind]
    digest = stripped_digest(listed) if strip_metadata else folder_digest(listed)
    sizes = {"size_bytes": sum(file["size"] for file in listed), "num_parts": parts_count(listed)}
    upload = upload_open(
        Upload(
            kind=kind,
            project_id=record.project_id,
            record_id=record.id,
            files=listed,
            digest=digest,
            unpack=unpack,
            **sizes,
        )
    )
    if versions.objects.filter(record=record, digest=digest, state=VersionState.READY).exists():
        links = [UploadLinkShape.existing(file["path"]) for file in listed]
    else:
        links = in_parallel(lambda file: upload_link(f"{upload.key}/{file['path']}", file), listed)
    return UploadShape(upload=upload.id, files=links)


@transaction.atomic
def upload_open(upload: Upload) -> Upload:
    """Saves the upload. Raises Problem(409) if the project's open uploads would exceed a limit.

    An upload is open until `upload_deadline`, unless a version has its files.
    """
    Project.objects.select_for_update().get(pk=upload.project_id)
    rows = Upload.objects.filter(project_id=upload.project_id, created__gte=upload_deadline(timezone.now()))
    sizes = {row.key: (row.size_bytes, row.num_parts) for row in rows.defer("files")}
    for _, versions in KINDS.values():
        for key in versions.objects.filter(record__project_id=upload.project_id).values_list("key", flat=True):
            sizes.pop(key.removesuffix(".files"), None)
    _room_check("uploads", len(sizes) + 1, MAX_OPEN)
    _room_check(
        "bytes", sum(size for size, _ in sizes.values()) + upload.size_bytes, environment().project_upload_bytes
    )
    _room_check("parts", sum(parts for _, parts in sizes.values()) + upload.num_parts, MAX_OPEN_PARTS)
    upload.save(force_insert=True)
    return upload


def _room_check(unit: str, total: int, allowed: int) -> None:
    if total > allowed:
        hours = f"{environment().upload_hours:g}"
        hint = f"Make versions of the uploads that were sent; those that are not are removed after {hours} hours."
        message = f"The project's open uploads would have {total} {unit}; at most {allowed} are allowed."
        raise Problem("uploads_full", message, status=409, hint=hint)


def upload_join(*, upload: Upload, parts: Parts) -> JoinedShape:
    """Joins the parts of one file. Raises Problem if the upload does not list it."""
    file = next((file for file in upload.files if file["path"] == parts.path), None)
    if file is None:
        message = f"the upload lists no {parts.path!r}"
        raise Problem("invalid", f"path: {message}.", fields={"path": [message]})
    parts_join(f"{upload.key}/{parts.path}", file, parts)
    return JoinedShape(path=file["path"], size=file["size"], sha256=file["sha256"])


def upload_deadline(at: datetime) -> datetime:
    """Uploads that were created before this time can no longer become a version."""
    return at - timedelta(hours=environment().upload_hours)


def uploads_sweep() -> int:
    """Removes uploads that never became a version, with their files and parts; returns their number.

    Files are removed before the row, so that an interrupted removal is repeated. Files of a version stay.
    """
    at = timezone.now()
    old = Upload.objects.filter(created__lt=upload_deadline(at) - timedelta(hours=LATEST_HOURS)).defer("files")
    swept = sum(_sweep(upload, at) for upload in old.order_by("created")[:SWEEP_AT_ONCE])
    storage().sweep_parts(older_than_seconds=3600 * (environment().upload_hours + LATEST_HOURS))
    if swept:
        log.info("%d uploads that became no version were removed", swept)
    return swept


def _sweep(upload: Upload, at: datetime) -> bool:
    _, versions = KINDS[upload.kind]
    unused = not versions.objects.filter(key=upload.key).exists()
    if unused:
        storage().delete_prefix(f"{upload.key}/")
    _upload_delete(upload, at, audited=unused)
    return unused


@transaction.atomic
def _upload_delete(upload: Upload, at: datetime, *, audited: bool) -> None:
    if audited:
        audit_add(
            actor="dispatcher",
            kind="upload_swept",
            object=f"upload:{upload.pk}",
            at=at,
            project_id=upload.project_id,
            data={"record": str(upload.record_id), "created": upload.created.isoformat()},
        )
    upload.delete()
