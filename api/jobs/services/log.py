"""The log grows at its end, in masked bytes; what was sent before may be sent again."""

from typing import Any

from django.db import transaction

from api.environment import environment
from api.errors import Problem
from api.jobs.logs import hot_chunks
from api.jobs.models import Attempt, LogChunk
from api.jobs.services.attempt import require_live

MAX_BYTES = 256 * 1024


@transaction.atomic
def log_append(*, attempt_id: Any, offset: int, data: bytes) -> int:
    """The new end. Raises Problem 409 with the expected offset, 410 when the attempt ended, 413 for too
    much in one call or in all."""
    if len(data) > MAX_BYTES:
        raise Problem("log_too_large", f"At most {MAX_BYTES} bytes a call, got {len(data)}.", status=413)
    fields = ("ended_at", "outcome", "log_bytes", "log_stored")
    attempt = Attempt.objects.select_for_update().only(*fields).get(pk=attempt_id)
    require_live(attempt)
    if offset != attempt.log_bytes and _is_known(attempt, offset, data):
        return attempt.log_bytes
    if (
        offset + len(data) > environment().attempt_log_bytes
    ):  # by offset: a worker that goes on behind it is refused again
        hint = "The rest stays on the worker."
        raise Problem("log_full", f"A log may have {environment().attempt_log_bytes} bytes.", status=413, hint=hint)
    if offset != attempt.log_bytes:
        message = f"The log ends at {attempt.log_bytes}, got offset {offset}."
        raise Problem("log_offset", message, status=409, fields={"expected": [attempt.log_bytes]})
    if data:
        LogChunk.objects.create(attempt=attempt, start=offset, bytes=data)
        attempt.log_bytes += len(data)
        attempt.save(update_fields=["log_bytes"])
    return attempt.log_bytes


def _is_known(attempt: Attempt, offset: int, data: bytes) -> bool:
    """Whether the same bytes stand there already. Only the tail in the database is looked at: it is longer than what
    one call may repeat, and the storage is not asked within a transaction."""
    end = offset + len(data)
    if end > attempt.log_bytes or offset < attempt.log_stored:
        return False
    held = hot_chunks(attempt, offset, end)
    start = held[0].start if held else offset
    return b"".join(bytes(chunk.bytes) for chunk in held)[offset - start : end - start] == data
