"""Logs move from the database into the storage: the tail of a live one stays, an ended one goes whole."""

import tempfile
from pathlib import Path
from typing import IO

from django.db import transaction
from django.db.models import F, Q

from api.jobs.models import Attempt, LogChunk, LogPiece
from api.jobs.services.log import MAX_BYTES
from api.storage import storage

PIECE_BYTES = 4 << 20
"""About the size of one file in the storage."""
TAIL_BYTES = 1 << 20
"""So much of a live log stays in the database: readers follow it there, and agents repeat calls into it."""
assert TAIL_BYTES >= 2 * MAX_BYTES, "a repeated call must find its bytes in the tail"


def logs_compact(*, limit: int = 20, piece_bytes: int = PIECE_BYTES, tail_bytes: int = TAIL_BYTES) -> int:
    """Moves what is due of at most `limit` attempts; how many there were. Any number may run at once."""
    grown = Q(log_bytes__gte=F("log_stored") + piece_bytes + tail_bytes)
    due = Attempt.objects.filter(Q(ended_at__isnull=False) | grown, log_stored__lt=F("log_bytes"))[:limit]
    for attempt in due:
        keep = 0 if attempt.ended_at else tail_bytes
        while attempt.log_bytes - attempt.log_stored > keep and _piece_move(attempt, piece_bytes, keep):
            attempt.refresh_from_db(fields=["log_stored"])
    return len(due)


def _piece_move(attempt: Attempt, piece_bytes: int, keep: int) -> bool:
    """The file is whole before the rows go; a crash in between costs only a second copy.

    Its key names both ends, so that two who move at once never write other bytes under one key.
    """
    start, most = attempt.log_stored, attempt.log_bytes - keep
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
    """Writes whole chunks from `start` until `enough` is reached or passed; where it ended."""
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
