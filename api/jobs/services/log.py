"""Writes of a log: append masked bytes at its end, and move the stored part from the database into the storage."""

import tempfile
from pathlib import Path
from typing import IO, Any

from django.db import transaction
from django.db.models import F, Q

from api.environment import environment
from api.errors import Problem
from api.jobs.logs import hot_chunks
from api.jobs.models import Attempt, LogChunk, LogPiece
from api.jobs.services.attempt_lifecycle import require_live
from api.storage import storage

MAX_BYTES = 256 * 1024
"""Of one append."""
PIECE_BYTES = 4 << 20
"""About the size of one file in the storage."""
TAIL_BYTES = 1 << 20
"""The part of a live log that stays in the database: readers follow it there, and agents repeat calls into it."""
assert TAIL_BYTES >= 2 * MAX_BYTES, "a repeated call must find its bytes in the tail"


@transaction.atomic
def log_append(*, attempt_id: Any, offset: int, data: bytes) -> int:
    """Returns the new end. Bytes that were appended before may be sent again.

    Raises Problem 409 with the expected offset, 410 if the attempt has ended, 413 for too much in one call or in all.
    """
    if len(data) > MAX_BYTES:
        raise Problem("log_too_large", f"At most {MAX_BYTES} bytes a call, got {len(data)}.", status=413)
    fields = ("ended_at", "outcome", "log_bytes", "log_stored")
    attempt = Attempt.objects.select_for_update().only(*fields).get(pk=attempt_id)
    require_live(attempt)
    if offset != attempt.log_bytes and _is_repeated(attempt, offset, data):
        return attempt.log_bytes
    max_bytes = environment().attempt_log_bytes
    if offset + len(data) > max_bytes:  # by offset: a worker that continues behind it is refused again
        hint = "The rest stays on the worker."
        raise Problem("log_full", f"A log may have {max_bytes} bytes.", status=413, hint=hint)
    if offset != attempt.log_bytes:
        message = f"The log ends at {attempt.log_bytes}, got offset {offset}."
        raise Problem("log_offset", message, status=409, fields={"expected": [attempt.log_bytes]})
    if data:
        LogChunk.objects.create(attempt=attempt, start=offset, bytes=data)
        attempt.log_bytes += len(data)
        attempt.save(update_fields=["log_bytes"])
    return attempt.log_bytes


def _is_repeated(attempt: Attempt, offset: int, data: bytes) -> bool:
    """Whether the log holds the same bytes there. Only the tail in the database is compared: it is longer than what one
    call may repeat, and no transaction waits for the storage."""
    end = offset + len(data)
    if end > attempt.log_bytes or offset < attempt.log_stored:
        return False
    chunks = hot_chunks(attempt, offset, end)
    start = chunks[0].start if chunks else offset
    return b"".join(bytes(chunk.bytes) for chunk in chunks)[offset - start : end - start] == data


def logs_compact(*, limit: int = 20, piece_bytes: int = PIECE_BYTES, tail_bytes: int = TAIL_BYTES) -> int:
    """Moves logs of at most `limit` attempts into the storage and returns the number of attempts: the log of an ended
    attempt completely, of a live one all but its tail. Any number of calls may run at once."""
    grown = Q(log_bytes__gte=F("log_stored") + piece_bytes + tail_bytes)
    due = Attempt.objects.filter(Q(ended_at__isnull=False) | grown, log_stored__lt=F("log_bytes"))[:limit]
    for attempt in due:
        tail = 0 if attempt.ended_at else tail_bytes
        while attempt.log_bytes - attempt.log_stored > tail and _piece_move(attempt, piece_bytes, tail):
            attempt.refresh_from_db(fields=["log_stored"])
    return len(due)


def _piece_move(attempt: Attempt, piece_bytes: int, tail: int) -> bool:
    """Writes the file before it deletes the rows; a crash in between costs only a second copy.

    The key names both ends, so two concurrent moves never write different bytes under one key.
    """
    start, most = attempt.log_stored, attempt.log_bytes - tail
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.txt"
        with path.open("wb") as file:
            end = _chunks_write(attempt, file, start, min(start + piece_bytes, most))
        if end == start:
            return False
        key = f"{attempt.prefix}/log/{start:012d}-{end:012d}.txt"
        storage().put_file(key, path)
    return _piece_record(attempt, start, end, key)


def _chunks_write(attempt: Attempt, file: IO[bytes], start: int, enough: int) -> int:
    """Writes complete chunks from `start` until `enough` is reached or passed; returns where it ended."""
    end = start
    for chunk in attempt.log_chunks.filter(start__gte=start).order_by("start").iterator(chunk_size=20):
        if chunk.start != end or end >= enough:
            break
        file.write(chunk.bytes)
        end += len(chunk.bytes)
    return end


@transaction.atomic
def _piece_record(attempt: Attempt, start: int, end: int, key: str) -> bool:
    locked = Attempt.objects.select_for_update().get(pk=attempt.pk)
    if locked.log_stored != start:
        return False
    LogPiece.objects.create(attempt=locked, start=start, size_bytes=end - start, key=key)
    LogChunk.objects.filter(attempt=locked, start__gte=start, start__lt=end).delete()
    Attempt.objects.filter(pk=locked.pk).update(log_stored=end)
    return True
