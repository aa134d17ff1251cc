"""A ZIP archive as it is read: nothing is buffered but one piece, however large its files are."""

import asyncio
import hashlib
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, cast

from storage.keys import key_check

MODE_FILE = 0o100644


@dataclass(frozen=True)
class Entry:
    path: str
    """Inside the archive."""
    size: int
    sha256: str
    read: Callable[[], Iterator[bytes]]


class _Outgoing:
    """What the archive wrote since it was last taken."""

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
    """The archive, stored as it is: weights do not shrink. Entries beyond 4 GiB are ZIP64.

    A file that changed under way raises ValueError, so that the archive stays without its directory: no reader takes
    it for whole.
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
                raise ValueError(f"{entry.path} has not the SHA-256 {entry.sha256} that is recorded")
    yield outgoing.take()


async def in_threads(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Each piece is read in a thread, when it is asked for: a slow client holds no thread and no memory."""
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        if piece:
            yield piece
