"""Reads of a job's log: those of its attempts, one after the other, as one byte string."""

from django.db.models import F

from api.jobs.models import Attempt, Job, LogChunk
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
