"""Sends events and log to the API, in order, and retries until they are accepted."""

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import structlog

from foundation.retry import Pause, backoff
from trainers.contract.events import Event, Warning_
from worker.attempt.control import ControlFile
from worker.attempt.output import LogSpool
from worker.attempt.publish import Artifact
from worker.client.api import EVENT_LIMIT, LOG_LIMIT, AttemptApi
from worker.errors import RefusedError, UnreachableError

EVERY_SECONDS = 0.3
HOLD_SECONDS = 10.0
"""Longest time that an event waits for the file that it shows, so that no client requests a missing image."""
BATCH_BYTES = 512 * 1024
"""Most bytes of the events of one request, unless a single one is larger."""
SMALLEST_LOG = 4096
STUCK_TRIES = 5
"""A request that cannot be split is dropped after this many failures while the API answers other requests."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Entry:
    event: Event
    artifact: Artifact | None
    read_at: float
    size_bytes: int
    replaced: bool = False
    """The event is the warning that replaced a dropped one."""

    @property
    def may_go(self) -> bool:
        return self.artifact is None or self.artifact.done.is_set() or time.monotonic() > self.read_at + HOLD_SECONDS


class Stuck:
    """Counts failures of one request while the API answers others (such as heartbeats): the request is at fault."""

    def __init__(self, api: AttemptApi, backoff_seconds: float) -> None:
        self._api = api
        self._backoff_seconds = backoff_seconds
        self.clear()

    def clear(self) -> None:
        self._num_answers = self._api.num_answers
        self._count = 0
        self._pauses: Iterator[float] = backoff(self._backoff_seconds)

    def note(self) -> float:
        """Counts one failure; returns how long to pause."""
        self._count += self._api.num_answers > self._num_answers
        self._num_answers = self._api.num_answers
        return next(self._pauses)

    @property
    def is_hopeless(self) -> bool:
        return self._count >= STUCK_TRIES


class EventSender:
    """patience_seconds: how long after the trainer's end events and log are still tried."""

    def __init__(
        self,
        api: AttemptApi,
        control: ControlFile,
        spool: LogSpool,
        backoff_seconds: float,
        patience_seconds: float = float("inf"),
    ) -> None:
        self._api = api
        self._control = control
        self._spool = spool
        self._patience_seconds = patience_seconds
        self._entries: deque[Entry] = deque()
        self._stuck = Stuck(api, backoff_seconds)
        self._event_limit = EVENT_LIMIT
        self._log_limit = LOG_LIMIT
        self._log_offset = 0
        self._log_closed = False
        self._sent_events = 0

    def add(self, event: Event, artifact: Artifact | None) -> None:
        self._entries.append(_entry(event, artifact))

    def run(self, ended: threading.Event, pause: Pause) -> None:
        """Runs until `ended` is set and everything is sent; retries for as long as `pause` permits."""
        ended_at = float("inf")
        while True:
            last = ended.is_set()
            ended_at = min(ended_at, time.monotonic()) if last else ended_at
            while (batch := self._batch()) and not self._is_late(ended_at):
                pause(0)
                pause(self._send_events(batch))
            self._give_turn()
            while self._log_left() and not self._is_late(ended_at):
                pause(0)
                pause(self._send_log())
            if last and not self._entries:
                return
            if self._is_late(ended_at):
                log.error("events_given_up", count=len(self._entries), log_bytes=self._spool.size() - self._log_offset)
                return
            ended.wait(EVERY_SECONDS) if not last else pause(EVERY_SECONDS)

    def _is_late(self, ended_at: float) -> bool:
        return time.monotonic() > ended_at + self._patience_seconds

    def _give_turn(self) -> None:
        """Lets the first waiting artifact be published: all events before it have been sent."""
        if self._entries and (artifact := self._entries[0].artifact):
            artifact.turn.set()

    def _batch(self) -> list[Entry]:
        batch: list[Entry] = []
        size_bytes = 0
        for entry in list(self._entries)[: self._event_limit]:
            size_bytes += entry.size_bytes
            if not entry.may_go or (batch and size_bytes > BATCH_BYTES):
                break
            batch.append(entry)
        return batch

    def _send_events(self, batch: list[Entry]) -> float:
        """Sends once; returns the pause before the next try. A failed batch is halved, down to the event at fault.

        Events are numbered here, so that malformed lines and dropped events leave no gap.
        """
        events = [self._control.with_api_seq(entry.event.model_dump(mode="json")) for entry in batch]
        first = self._sent_events + 1
        try:
            self._api.post(
                "events", {"first_seq": first, "events": [{**e, "seq": first + i} for i, e in enumerate(events)]}
            )
        except UnreachableError as error:
            log.warning("events_unanswered", first_seq=first, count=len(batch), error=str(error))
            seconds = self._stuck.note()
            if len(batch) == 1 and self._stuck.is_hopeless:
                self._leave_out(batch[0], str(error))
            self._event_limit = max(1, len(batch) // 2)
            return seconds
        except RefusedError as error:
            log.error("events_refused", first_seq=first, count=len(batch), error=str(error))
            self._event_limit = max(1, len(batch) // 2)
            if len(batch) == 1:
                self._leave_out(batch[0], str(error))
            return 0
        self._stuck.clear()
        self._event_limit = min(EVENT_LIMIT, self._event_limit * 2)
        self._sent_events += len(batch)
        for _ in batch:
            self._pop()
        return 0

    def _leave_out(self, entry: Entry, why: str) -> None:
        """Replaces an event that the API refuses by a warning; drops a refused warning."""
        self._stuck.clear()
        log.error("event_left_out", kind=entry.event.data.kind, seq=entry.event.seq, why=why)
        if entry.replaced:
            self._pop()
            return
        message = f"An event of kind {entry.event.data.kind} was dropped because the API refuses it: {why}"
        warning = entry.event.model_copy(update={"data": Warning_(message=message[:1000])})
        self._entries[0] = replace(_entry(warning, entry.artifact), replaced=True)

    def _pop(self) -> None:
        if artifact := self._entries.popleft().artifact:
            artifact.turn.set()

    def _log_left(self) -> bool:
        return not self._log_closed and self._log_offset < self._spool.size()

    def _send_log(self) -> float:
        """Sends once; returns the pause before the next try. A failed chunk is made smaller."""
        data = self._spool.read(self._log_offset, self._log_limit)
        try:
            offset = self._api.log(self._log_offset, data)
        except UnreachableError as error:
            log.warning("log_unanswered", offset=self._log_offset, bytes=len(data), error=str(error))
            seconds = self._stuck.note()
            if len(data) <= SMALLEST_LOG and self._stuck.is_hopeless:
                self._close_log(str(error))
            self._log_limit = max(SMALLEST_LOG, len(data) // 2)
            return seconds
        except RefusedError as error:
            self._close_log(str(error))
            return 0
        self._stuck.clear()
        self._log_limit = min(LOG_LIMIT, self._log_limit * 2)
        self._log_offset = min(offset, self._spool.size())
        return 0

    def _close_log(self, why: str) -> None:
        """Stops sending the log: later chunks would not be at the offset that the API expects."""
        self._log_closed = True
        log.error("log_refused", offset=self._log_offset, why=why)
        message = f"The log ends at byte {self._log_offset} because the API refuses the rest: {why}"
        self.add(Event(seq=1, time=time.time(), data=Warning_(message=message[:1000])), None)


def _entry(event: Event, artifact: Artifact | None) -> Entry:
    return Entry(event, artifact, time.monotonic(), len(event.model_dump_json()))
