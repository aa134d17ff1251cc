"""Follows `out/events.jsonl` while it grows."""

from pathlib import Path

import structlog
from pydantic import ValidationError

from trainers.events import EVENTS, Event
from worker.masking import Masker

log = structlog.get_logger()


class EventTail:
    def __init__(self, path: Path, masker: Masker) -> None:
        self._path = path
        self._masker = masker
        self._offset = 0
        self._last_seq = 0

    def read(self) -> list[Event]:
        """Events whose lines became whole since the last call. A line that is no event is said and left out."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [event for line in whole.splitlines() if (event := self._event(line)) is not None]

    def _event(self, line: bytes) -> Event | None:
        try:
            event = EVENTS.validate_json(self._masker.event(line))
        except ValidationError as error:
            log.error("event_not_understood", line=line[:500].decode(errors="replace"), error=str(error))
            return None
        if event.seq <= self._last_seq:
            log.error("event_seq_not_rising", seq=event.seq, after=self._last_seq)
            return None
        self._last_seq = event.seq
        return event
