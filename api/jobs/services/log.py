"""The log grows at its end, in masked bytes; what was sent before may be sent again."""

import tempfile
from pathlib import Path
from typing import Any

from django.db import transaction
from django.db.models import F

from api.errors import Problem
from api.files import storage
from api.jobs.logs import attempt_log_read
from api.jobs.models import Attempt, LogChunk
from api.jobs.services.attempt import require_live

MAX_BYTES = 256 * 1024


@transaction.atomic
def log_append(*, attempt_id: Any, offset: int, data: bytes) -> int:
    """The new end. Raises Problem 409 with the expected offset, 410 when the attempt ended, 413 for too much."""
    if len(data) > MAX_BYTES:
        raise Problem("log_too_large", f"At most {MAX_BYTES} bytes a call, got {len(data)}.", status=413)
    attempt = Attempt.objects.select_for_update().get(pk=attempt_id)
    require_live(attempt)
    if offset != attempt.log_bytes:
        if offset + len(data) <= attempt.log_bytes and attempt_log_read(attempt, offset, len(data)) == data:
            return attempt.log_bytes
        message = f"The log ends at {attempt.log_bytes}, got offset {offset}."
        raise Problem("log_offset", message, status=409, fields={"expected": [attempt.log_bytes]})
    if data:
        LogChunk.objects.create(attempt=attempt, start=offset, bytes=data)
        attempt.log_bytes += len(data)
        attempt.save(update_fields=["log_bytes"])
    return attempt.log_bytes


def logs_compact(*, limit: int = 20) -> int:
    """Moves the logs of ended attempts from the database into the storage; how many."""
    waiting = Attempt.objects.filter(ended_at__isnull=False, log_stored__lt=F("log_bytes"))[:limit]
    for attempt in waiting:
        _compact(attempt)
    return len(waiting)


def _compact(attempt: Attempt) -> None:
    """The file is whole before the rows go; a crash in between costs only a second copy."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.txt"
        with path.open("wb") as file:
            for chunk in attempt.log_chunks.order_by("start").iterator(chunk_size=20):
                file.write(chunk.bytes)
        assert path.stat().st_size == attempt.log_bytes, f"{path.stat().st_size} of {attempt.log_bytes} log bytes"
        storage().put_file(attempt.log_key, path)
    with transaction.atomic():
        Attempt.objects.filter(pk=attempt.pk).update(log_stored=attempt.log_bytes)
        LogChunk.objects.filter(attempt=attempt).delete()
