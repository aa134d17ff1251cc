"""The log of a job: append masked bytes, move the stored part into the storage, read both as one byte string."""

import tempfile
from pathlib import Path
from typing import IO, Any

from django.db import transaction
from django.db.models import F, Q

from api.environment import environment
from api.errors import Problem
from api.jobs.models import Attempt, Job, LogChunk, LogPiece
from api.jobs.services.attempt_lifecycle import require_live
from api.storage import storage


def log_size(job: Job) -> int:
    return sum(job.attempts.values_list("log_bytes", flat=True))


def log_read(job: Job, offset: int, limit: int) -> bytes:
    """At most `limit` bytes from `offset`; less at the end, b"" past it."""
    pieces, start = [], 0
    for attempt in job.attempts.order_by("n"):
        if limit > 0 and start <= offset < start + attempt.log_bytes:
            piece = attempt_log_read(attempt, offset - start, limit)
            pieces.append(piece)
            offset, limit = offset + len(piece), limit - len(piece)
        start += attempt.log_bytes
    return b"".join(pieces)


def attempt_log_read(attempt: Attempt, offset: int, limit: int) -> bytes:
    """Rows move from the database to the storage, never back, so reading the database first misses nothing."""
    end = min(attempt.log_bytes, offset + limit)
    hot = hot_chunks(attempt, offset, end)
    cold_end = min(end, hot[0].start) if hot else end
    return b"".join([*_cold(attempt, offset, cold_end), *(_cut(chunk, offset, end) for chunk in hot)])


def hot_chunks(attempt: Attempt, offset: int, end: int) -> list[LogChunk]:
    """The chunks of those bytes that are still in the database, in order."""
    first = attempt.log_chunks.filter(start__lte=offset).order_by("-start").values_list("start", flat=True).first() or 0
    return list(attempt.log_chunks.filter(start__gte=first, start__lt=end).order_by("start"))


def _cut(chunk: LogChunk, offset: int, end: int) -> bytes:
    return bytes(chunk.bytes)[max(0, offset - chunk.start) : end - chunk.start]


def _cold(attempt: Attempt, offset: int, end: int) -> list[bytes]:
    pieces = attempt.log_pieces.filter(start__lt=end, start__gt=offset - F("size_bytes")).order_by("start")
    data = []
    for piece in pieces:
        skip = max(0, offset - piece.start)
        length = min(end - piece.start, piece.size_bytes) - skip
        data.append(b"".join(storage().open_range(piece.key, skip, length)))
    return data


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
