"""Events and log to the API, in order, as often as it takes."""

import threading
import time
from collections import deque
from dataclasses import dataclass

import structlog

from trainers.events import Event
from worker.control import ControlFile
from worker.logs import LogSpool
from worker.publish import Artifact
from worker.report import EVENT_LIMIT, LOG_LIMIT, AttemptApi, Pause, RefusedError, insist

EVERY_SECONDS = 0.3
HOLD_SECONDS = 10.0
"""An event that shows a file waits this long for the file, so that nobody sees a picture that is not there yet."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Entry:
    event: Event
    artifact: Artifact | None
    read_at: float

    @property
    def may_go(self) -> bool:
        return self.artifact is None or self.artifact.done.is_set() or time.monotonic() > self.read_at + HOLD_SECONDS


class Sender:
    def __init__(self, api: AttemptApi, control: ControlFile, spool: LogSpool, backoff_seconds: float) -> None:
        self._api = api
        self._control = control
        self._spool = spool
        self._backoff_seconds = backoff_seconds
        self._entries: deque[Entry] = deque()
        self._log_offset = 0
        self._sent_events = 0

    def add(self, event: Event, artifact: Artifact | None) -> None:
        self._entries.append(Entry(event, artifact, time.monotonic()))

    def run(self, ended: threading.Event, pause: Pause) -> None:
        """Until `ended` is set and all is sent; repeats for as long as `pause` lets it."""
        while True:
            last = ended.is_set()
            while batch := self._batch():
                self._send_events(batch, pause)
            self._give_turn()
            while self._log_offset < self._spool.size():
                self._send_log(pause)
            if last and not self._entries:
                return
            ended.wait(EVERY_SECONDS) if not last else pause(EVERY_SECONDS)

    def _give_turn(self) -> None:
        """What stands before the first that waits is sent, so its file may become real."""
        if self._entries and (artifact := self._entries[0].artifact):
            artifact.turn.set()

    def _batch(self) -> list[Event]:
        found: list[Event] = []
        for entry in list(self._entries)[:EVENT_LIMIT]:
            if not entry.may_go:
                break
            found.append(entry.event)
        return found

    def _send_events(self, batch: list[Event], pause: Pause) -> None:
        """Numbered here, so that a line that was no event, or a batch that was refused, leaves no gap."""
        asked = [self._control.as_asked(event.model_dump(mode="json")) for event in batch]
        first = self._sent_events + 1
        body = {"first_seq": first, "events": [{**event, "seq": first + i} for i, event in enumerate(asked)]}
        try:
            insist(lambda: self._api.post("events", body), self._backoff_seconds, pause)
            self._sent_events += len(batch)
        except RefusedError as error:
            log.error("events_refused", first_seq=batch[0].seq, count=len(batch), error=str(error))
        for _ in batch:
            if artifact := self._entries.popleft().artifact:
                artifact.turn.set()

    def _send_log(self, pause: Pause) -> None:
        data = self._spool.read(self._log_offset, LOG_LIMIT)
        try:
            offset = insist(lambda: self._api.log(self._log_offset, data), self._backoff_seconds, pause)
        except RefusedError as error:
            log.error("log_refused", offset=self._log_offset, error=str(error))
            offset = self._log_offset + len(data)
        self._log_offset = min(offset, self._spool.size())
