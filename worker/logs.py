"""The log of one attempt: the trainer's output, masked line by line as it enters the spool on disk."""

import os
import re
from pathlib import Path

import structlog

from worker.files import disk_is_full
from worker.masking import Masker

LINE_LIMIT = 64 * 1024
"""A longer line is cut at its last blank, so that no token is torn."""
ENDS = re.compile(rb"(?<=[\n\r])")
log = structlog.get_logger()


class LogSpool:
    """Reads a pipe until its end and appends to `path`. Offsets of the spool count masked bytes."""

    def __init__(self, path: Path, masker: Masker) -> None:
        self._path = path
        self._masker = masker
        self._rest = b""
        self._lost_bytes = 0

    def read_all(self, descriptor: int) -> None:
        """Until every process that can write is gone. A full disk loses lines, never blocks the trainer."""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe, self._path.open("ab", buffering=0) as spool:
            while chunk := pipe.read(LINE_LIMIT):
                self._append(spool.fileno(), self._whole_lines(chunk))
            self._append(spool.fileno(), self._masker.line(self._rest))

    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def read(self, offset: int, limit: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    def tail(self, limit: int = 4000) -> str:
        """The last `limit` bytes, for people."""
        return self.read(max(0, self.size() - limit), limit).decode(errors="replace") if self.size() else ""

    def _whole_lines(self, chunk: bytes) -> bytes:
        *lines, self._rest = ENDS.split(self._rest + chunk)
        if len(self._rest) > LINE_LIMIT:
            cut = max(self._rest.rfind(b" "), self._rest.rfind(b"\t")) + 1 or len(self._rest)
            lines.append(self._rest[:cut])
            self._rest = self._rest[cut:]
        return b"".join(self._masker.line(line) for line in lines)

    def _append(self, spool: int, data: bytes) -> None:
        try:
            while data:
                data = data[os.write(spool, data) :]
        except OSError as error:
            if not disk_is_full(error):
                raise
            self._lost_bytes += len(data)
            log.warning("log_lines_lost", lost_bytes=self._lost_bytes, reason="disk full")
