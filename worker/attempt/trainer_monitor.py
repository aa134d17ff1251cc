"""The time while the trainer lives: follow its events, pass orders on, end it when it must end."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import structlog

from foundation.boottime import boottime
from foundation.protocol import LIVE
from trainers.contract.errors import Reason
from trainers.contract.events import Event, Step, Warning_, event_fit
from worker.attempt.control import ControlFile, StopRequest
from worker.attempt.event_sender import EventSender
from worker.attempt.output import EventTail
from worker.attempt.publish import Artifact, Publisher
from worker.client.lease import Lease
from worker.process.launch import Running
from worker.process.supervise import Exit
from worker.transfer.out_folder import OutBounds, OutFolder, UnsafeFileError

FOLDER = "tensorboard"
PIECE_BYTES = 16 * 1024**2
MAX_FILES = 50
SHARE = 50
"""A look is made each 50th of the time so far, so that the pieces of the longest job stay few."""
log = structlog.get_logger()


class LiveFiles:
    """`every_seconds`: between two looks in the first minutes."""

    def __init__(self, out: OutFolder, publisher: Publisher, every_seconds: float) -> None:
        self._out = out
        self._publisher = publisher
        self._every_seconds = every_seconds
        self._started_at = self._looked_at = time.monotonic()
        self._ends: dict[str, int] = {}
        """By file, how much of it was staged."""
        self._last: Artifact | None = None

    def look(self, step: int) -> None:
        """Stages what is new, once it is time and the storage has taken the pieces before it."""
        now = time.monotonic()
        pause = max(self._every_seconds, (now - self._started_at) / SHARE)
        if now < self._looked_at + pause or (self._last and not self._last.done.is_set()):
            return
        self._looked_at = now
        try:
            for path in self._out.files(FOLDER, limit=MAX_FILES):
                self._stage(path, step)
        except FileNotFoundError:
            return
        except (OSError, UnsafeFileError) as error:  # the whole files come at the end
            log.warning("live_files_left_out", error=str(error)[:1000])

    def _stage(self, path: str, step: int) -> None:
        start = self._ends.get(path, 0)
        data = self._out.read(path, start=start, limit=PIECE_BYTES)
        if data:
            index = list(self._ends).index(path) if path in self._ends else len(self._ends)
            name = f"{LIVE}/{index:03d}-{start:015d}.part"
            self._last = self._publisher.stage_bytes(FOLDER, step, name, data, {"file": path, "start": start})
            self._ends[path] = start + len(data)


TICK_SECONDS = 0.1
SHIM_PATIENCE_SECONDS = 10.0
"""A shim that has not ended its trainer this long after the lease and the kill time is killed itself."""


class TrainerMonitor:
    def __init__(
        self,
        *,
        tail: EventTail,
        sender: EventSender,
        publisher: Publisher,
        control: ControlFile,
        lease: Lease,
        stop_request: StopRequest,
        stop_grace_seconds: float,
        no_progress_seconds: float,
        kill_seconds: float,
        on_first_event: Callable[[], None],
        live_files: LiveFiles,
        out_bounds: OutBounds,
    ) -> None:
        self._tail = tail
        self._sender = sender
        self._publisher = publisher
        self._control = control
        self._lease = lease
        self._stop_request = stop_request
        self._stop_grace_seconds = stop_grace_seconds
        self._no_progress_seconds = no_progress_seconds
        self._kill_seconds = kill_seconds
        self._on_first_event = on_first_event
        self._live_files = live_files
        self._out_bounds = out_bounds
        self._stop_requested_at: float | None = None
        self._heard_at = time.monotonic()
        self._lease_told = 0.0
        self.progress_seq = 0
        self.last_step = 0
        self.newest: Step | None = None
        """What the trainer said last of its curves."""
        self.failed: Reason | None = None
        self.forced = False
        """A stop's grace was over, so the trainer was sent signals."""
        self.silent = False
        """The trainer was ended for sending no event."""
        self.oversize = ""
        """Which bound of out/ the trainer exceeded, for which it was ended."""

    def watch(self, running: Running, background: Sequence["Future[None]"]) -> Exit:
        """Until nothing of the trainer is left. Raises what one of the background threads raised."""
        self._heard_at = time.monotonic()
        while (end := running.wait(TICK_SECONDS)) is None:
            self.read_events()
            self._tell_lease(running)
            self._act(running)
            self._live_files.look(self.last_step)
            self._bound(running)
            for thread in background:
                if thread.done():
                    thread.result()
        self.read_events()
        while self._tail.behind:
            self.read_events()
        self.oversize = self.oversize or self._out_bounds.problem()
        return end

    def _bound(self, running: Running) -> None:
        if not self.oversize and (problem := self._out_bounds.look()):
            self.oversize = problem
            running.kill()

    def read_events(self) -> None:
        for event in self._tail.read():
            self._heard_at = time.monotonic()
            if not self.progress_seq:
                self._on_first_event()
            self.progress_seq = event.seq
            fitting, left_out = event_fit(event)
            self._sender.add(fitting, self._note(fitting))
            if left_out:
                warning = Event(seq=event.seq, time=event.time, data=Warning_(message=left_out))
                self._sender.add(warning, None)

    def _note(self, event: Event) -> Artifact | None:
        data = event.data
        self.last_step = max(self.last_step, getattr(data, "step", 0))
        if isinstance(data, Step):
            self.newest = data
        if data.kind == "failed":
            self.failed = data.reason
        if data.kind == "checkpoint":
            return self._publisher.stage("checkpoint", data.step, data.path, {})
        if data.kind == "sample":
            details = {"label": data.label, "prompt": data.prompt, "seed": data.seed, **data.details}
            return self._publisher.stage("sample", data.step, data.path, details)
        return None

    def _tell_lease(self, running: Running) -> None:
        if self._lease.deadline != self._lease_told:
            self._lease_told = self._lease.deadline
            running.extend(self._lease_told)
        if boottime() > self._lease.deadline + self._kill_seconds + SHIM_PATIENCE_SECONDS:
            running.kill_shim()

    def _act(self, running: Running) -> None:
        if self._lease.refused:
            running.kill()
        elif self._stop_request.stop_kind:
            self._stop(running)
        elif time.monotonic() - self._heard_at > self._no_progress_seconds and not self.silent:
            self.silent = True
            running.terminate()

    def _stop(self, running: Running) -> None:
        now = time.monotonic()
        if self._stop_requested_at is None:
            self._stop_requested_at = now
            self._control.stop()
        if not self.forced and (
            self._stop_request.escalations or now - self._stop_requested_at > self._grace_seconds()
        ):
            self.forced = True
            running.terminate()

    def _grace_seconds(self) -> float:
        limit = self._stop_request.drain_seconds if self._stop_request.stop_kind == "drain" else None
        return self._stop_grace_seconds if limit is None else min(limit, self._stop_grace_seconds)
