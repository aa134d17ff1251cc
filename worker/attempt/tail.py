"""Follows `out/events.jsonl` while it grows, in chunks of bounded size."""

import json
import time

import structlog
from pydantic import ValidationError

from foundation.plain_text import value_clean
from trainers.contract.events import EVENTS, Event, Warning_
from worker.attempt.logs import Masker
from worker.transfer.out_folder import OutFolder, UnsafeFileError

NAME = "events.jsonl"
PIECE_BYTES = 1 << 20
LINE_BYTES = 512 * 1024
"""A longer line is set aside: no event is that long, and the API would refuse it."""
log = structlog.get_logger()


class EventTail:
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
            return self._out.read(NAME, start=self._offset, limit=PIECE_BYTES)
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
