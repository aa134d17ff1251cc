"""Reading a job's log: that of its attempts, one after the other, as one run of bytes."""

from api.files import storage
from api.jobs.models import Attempt, Job


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
    limit = min(limit, attempt.log_bytes - offset)
    if attempt.log_stored:
        return b"".join(storage().open_range(attempt.log_key, offset, limit))
    pieces, end = [], offset + limit
    first = attempt.log_chunks.filter(start__lte=offset).order_by("-start").values_list("start", flat=True).first() or 0
    for chunk in attempt.log_chunks.filter(start__gte=first, start__lt=end).order_by("start"):
        held = bytes(chunk.bytes)
        pieces.append(held[max(0, offset - chunk.start) : end - chunk.start])
    return b"".join(pieces)
