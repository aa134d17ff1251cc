"""What a trainer writes while it runs, read as it grows and masked line by line: its log and its events."""

import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

import structlog
from pydantic import ValidationError

from foundation.plain_text import value_clean
from trainers.contract.events import EVENTS, Event, Warning_
from worker.transfer.files import disk_is_full
from worker.transfer.out_folder import OutFolder, UnsafeFileError

MASK = b"[masked]"
SHAPES = (
    rb"\b(?:ant|anw|ana|hf)_[A-Za-z0-9_-]{16,}",
    rb"\bwandb_v1_[A-Za-z0-9_-]{16,}",
    rb"(?:X-Amz-Signature|X-Amz-Credential|signature)=[A-Za-z0-9%_./=-]{16,}",
)
WANDB_KEY = rb"\b[0-9a-f]{40}\b"


class Masker:
    """Replaces secrets in bytes. Values shorter than 8 characters are left: masking them would tear ordinary words."""

    def __init__(self, values: Iterable[str]) -> None:
        secrets = [value for value in values if len(value) >= 8]
        quoted = [form for value in secrets for form in (_in_json(value), quote(value, safe=""))]
        self._line = re.compile(b"|".join((*_escaped([*secrets, *quoted]), *SHAPES, WANDB_KEY)))
        self._event = re.compile(b"|".join((*_escaped(quoted), *SHAPES)))

    def line(self, line: bytes) -> bytes:
        return self._line.sub(MASK, line)

    def event(self, line: bytes) -> bytes:
        """For events.jsonl, where 40 hex digits are a revision, not a W&B key. The JSON stays valid."""
        return self._event.sub(MASK, line)


def _in_json(value: str) -> str:
    return json.dumps(value)[1:-1]


def _escaped(values: Iterable[str]) -> list[bytes]:
    """Longest first, so that no part of a longer value remains."""
    return sorted({re.escape(value.encode()) for value in values}, key=len, reverse=True)


TAIL_BYTES = 256 * 1024
"""Share of the limit that the retained end of an oversized log may fill."""
LINE_LIMIT = 64 * 1024
"""A longer line is cut at its last space, so that no token is split."""
ENDS = re.compile(rb"(?<=[\n\r])")
log = structlog.get_logger()


class LogSpool:
    """Reads a pipe to its end and appends to `path`. Offsets count masked bytes.

    Over `limit_bytes` the middle is left out, which a line says: the spool never grows beyond limit + TAIL_BYTES.
    """

    def __init__(self, path: Path, masker: Masker, limit_bytes: int) -> None:
        self._path = path
        self._masker = masker
        self._limit_bytes = limit_bytes
        self._rest = b""
        self._size_bytes = 0
        self._end = bytearray()
        """The newest bytes of a log over its limit."""
        self._left_out_bytes = 0
        self._lost_bytes = 0

    def read_all(self, descriptor: int) -> None:
        """Reads until every writer has exited. A full disk loses lines but never blocks the trainer."""
        with os.fdopen(descriptor, "rb", buffering=0) as pipe, self._path.open("ab", buffering=0) as spool:
            while chunk := pipe.read(LINE_LIMIT):
                self._add(spool.fileno(), self._whole_lines(chunk))
            self._add(spool.fileno(), self._masker.line(self._rest))
            self._append(spool.fileno(), self._ending())

    def size(self) -> int:
        return self._path.stat().st_size if self._path.exists() else 0

    def read(self, offset: int, limit: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(offset)
            return file.read(limit)

    def tail(self, limit: int = 4000) -> str:
        """The last `limit` bytes, for people."""
        return self.read(max(0, self.size() - limit), limit).decode(errors="replace") if self.size() else ""

    def _add(self, spool: int, data: bytes) -> None:
        room = self._limit_bytes - self._size_bytes
        if room > 0:
            head = data if len(data) <= room else data[: data.rfind(b"\n", 0, room) + 1]
            self._append(spool, head)
            data = data[len(head) :]
            self._size_bytes = self._size_bytes + len(head) if not data else self._limit_bytes
            if data:
                self._append(spool, _note(f"the log is over {self._limit_bytes} bytes: only its end follows"))
        self._end += data
        if (over := len(self._end) - TAIL_BYTES) > 0:
            self._left_out_bytes += over
            del self._end[:over]

    def _ending(self) -> bytes:
        """The end of a log over its limit."""
        note = _note(f"{self._left_out_bytes} bytes of the log were left out here") if self._left_out_bytes else b""
        return note + bytes(self._end)

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


def _note(message: str) -> bytes:
    return f"\n[anneal] {message}\n".encode()


EVENTS_FILE = "events.jsonl"
PIECE_BYTES = 1 << 20
LINE_BYTES = 512 * 1024
"""A longer line is set aside: no event is that long, and the API would refuse it."""


class EventTail:
    """Follows `out/events.jsonl` while it grows, in chunks of bounded size."""

    def __init__(self, out: OutFolder, masker: Masker) -> None:
        self._out = out
        self._masker = masker
        self._offset = 0
        self._last_seq = 0
        self._rest = b""
        self._skipped_bytes = 0
        """Of a line that is too long and has not ended yet."""
        self._problem = ""
        self.behind = False
        """More could be read at once."""

    def read(self) -> list[Event]:
        """Events whose lines became whole since the last call, of one piece of the file.

        A line that is no event is logged and skipped; one that is too long becomes a warning event.
        """
        data = self._piece()
        self._offset += len(data)
        self.behind = len(data) == PIECE_BYTES
        *lines, self._rest = (self._rest + data).split(b"\n")
        events = [event for line in lines if (event := self._next(line)) is not None]
        if len(self._rest) > LINE_BYTES:
            self._skipped_bytes += len(self._rest)
            self._rest = b""
        return events

    def _piece(self) -> bytes:
        try:
            return self._out.read(EVENTS_FILE, start=self._offset, limit=PIECE_BYTES)
        except FileNotFoundError:
            return b""
        except UnsafeFileError as error:
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("events_refused", error=self._problem)
            return b""

    def _next(self, line: bytes) -> Event | None:
        size, self._skipped_bytes = len(line) + self._skipped_bytes, 0
        return self._event(line) if size <= LINE_BYTES else self._too_long(size)

    def _too_long(self, size: int) -> Event:
        """In the place of the event that the line was meant to be."""
        self._last_seq += 1
        message = f"An event of {size} bytes was left out; expected at most {LINE_BYTES}."
        log.error("event_too_long", size=size, seq=self._last_seq)
        return Event(seq=self._last_seq, time=time.time(), data=Warning_(message=message))

    def _event(self, line: bytes) -> Event | None:
        try:
            event = _parsed(self._masker.event(line))
        except (ValueError, RecursionError) as error:
            log.error("event_not_understood", line=line[:500].decode(errors="replace"), error=str(error)[:1000])
            return None
        if event.seq <= self._last_seq:
            log.error("event_seq_not_rising", seq=event.seq, after=self._last_seq)
            return None
        self._last_seq = event.seq
        return event


def _parsed(line: bytes) -> Event:
    """Raises ValueError. Text that pydantic does not read, as half a surrogate pair, is cleaned and read again."""
    try:
        return EVENTS.validate_json(line)
    except ValidationError:
        return EVENTS.validate_python(value_clean(json.loads(line)))
