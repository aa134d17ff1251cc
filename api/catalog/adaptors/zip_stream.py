"""Streams a ZIP archive: buffers one piece at a time, however large its files are."""

import asyncio
import hashlib
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, cast

from storage.base import key_check

MODE_FILE = 0o100644


@dataclass(frozen=True)
class Entry:
    path: str
    """Inside the archive."""
    size: int
    sha256: str
    read: Callable[[], Iterator[bytes]]


class _Outgoing:
    """A write-only file that collects pieces until they are taken."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        return None

    def take(self) -> bytes:
        taken, self._pieces = b"".join(self._pieces), []
        return taken


def zip_pieces(entries: Iterable[Entry], at: datetime) -> Iterator[bytes]:
    """The archive without compression, since weights do not shrink. Entries beyond 4 GiB are ZIP64.

    Raises ValueError if a file does not match its digest; the archive then lacks its directory, so that every reader
    rejects it.
    """
    outgoing = _Outgoing()
    with zipfile.ZipFile(cast(IO[bytes], outgoing), "w", zipfile.ZIP_STORED) as archive:
        for entry in entries:
            info = zipfile.ZipInfo(key_check(entry.path), at.timetuple()[:6])
            info.file_size, info.external_attr = entry.size, MODE_FILE << 16
            digest = hashlib.sha256()
            with archive.open(info, "w") as target:
                for piece in entry.read():
                    digest.update(piece)
                    target.write(piece)
                    yield outgoing.take()
            if digest.hexdigest() != entry.sha256:
                raise ValueError(f"{entry.path}: SHA-256 mismatch: expected {entry.sha256}, got {digest.hexdigest()}")
    yield outgoing.take()


async def in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Reads each piece in a thread when it is requested: a slow client holds no thread and no memory."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:
            yield piece
