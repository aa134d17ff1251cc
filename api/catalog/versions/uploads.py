"""Files that users send: large ones joined from their parts, and all removed that never became a version."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from api.accounts.models import Project
from api.audit.services import audit_add
from api.catalog.models import KINDS, Upload
from api.environment import environment
from api.errors import Problem
from api.storage import storage
from api.upload_links import Parts, parts_join

log = logging.getLogger(__name__)

LATEST_HOURS = 1
"""An upload is refused before it is removed: so long a version that was begun in time may still be checked."""
SWEEP_AT_ONCE = 100
MAX_OPEN = 1_000
"""Uploads of one project that are open at a time."""
MAX_OPEN_PARTS = 20_000
"""Parts of their large files."""


@transaction.atomic
def upload_open(upload: Upload) -> Upload:
    """Saves it. Raises Problem(409) where the project's open uploads would hold too much.

    Open: not older than `upload_deadline`, and no version has its files.
    """
    Project.objects.select_for_update().get(pk=upload.project_id)
    rows = Upload.objects.filter(project_id=upload.project_id, created__gte=upload_deadline(timezone.now()))
    sizes = {one.key: (one.size_bytes, one.num_parts) for one in rows.defer("files")}
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


def upload_join(*, upload: Upload, parts: Parts) -> dict[str, Any]:
    """{path, size, sha256} of the file that is whole now. Raises Problem where the upload lists no such file."""
    file = next((file for file in upload.files if file["path"] == parts.path), None)
    if file is None:
        said = f"the upload lists no {parts.path!r}"
        raise Problem("invalid", f"path: {said}.", fields={"path": [said]})
    parts_join(f"{upload.key}/{parts.path}", file, parts)
    return {name: file[name] for name in ("path", "size", "sha256")}


def upload_deadline(at: datetime) -> datetime:
    """Uploads that are older than this, at the time `at`, can no longer become a version."""
    return at - timedelta(hours=environment().upload_hours)


def uploads_sweep() -> int:
    """How many uploads went that never became a version, with their files; parts that nobody joined go too.

    The files go first: what breaks off between is found again by its row. A version keeps its files.
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
    _forget(upload, at, audited=unused)
    return unused


@transaction.atomic
def _forget(upload: Upload, at: datetime, *, audited: bool) -> None:
    told = {"record": str(upload.record_id), "created": upload.created.isoformat()}
    where = f"upload:{upload.pk}"
    if audited:
        project = upload.project_id
        audit_add(actor="dispatcher", kind="upload_swept", object=where, at=at, project_id=project, data=told)
    upload.delete()
