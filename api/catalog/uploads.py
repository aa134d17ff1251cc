"""Files that users send: large ones joined from their parts, and all removed that never became a version."""

import logging
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from api.catalog.models import KINDS, Upload
from api.environment import environment
from api.errors import Problem
from api.files import storage
from api.jobs.transitions import audit_add
from api.sending import Parts, parts_join

log = logging.getLogger(__name__)

LATEST_HOURS = 1
"""An upload is refused before it is removed: so long a version that was begun in time may still be checked."""
SWEEP_AT_ONCE = 100


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
