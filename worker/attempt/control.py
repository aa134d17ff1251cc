"""Control of a running attempt: stop requests, commands to the trainer, and how long each part may wait."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainers.contract.errors import ReasonCode
from worker.attempt.outcome import StopKind
from worker.client.lease import Lease
from worker.errors import AttemptError, FencedError, StopError
from worker.transfer.files import write_json

STOP_ORDER: tuple[StopKind, ...] = ("drain", "pause", "cancel")
"""Ascending priority: a later one overrides an earlier one."""


class StopRequest:
    def __init__(self, drain_seconds: float | None = None) -> None:
        self.drain_seconds = drain_seconds
        """Longest wait for the checkpoint of a drained trainer; None = the job's own grace."""
        self.stop_kind: StopKind | None = None
        self.escalations = 0
        """1: do not wait for the trainer's checkpoint; 2: do not wait for anything."""

    def stop(self, kind: StopKind) -> None:
        current = -1 if self.stop_kind is None else STOP_ORDER.index(self.stop_kind)
        self.stop_kind = STOP_ORDER[max(current, STOP_ORDER.index(kind))]

    def escalate(self) -> None:
        self.escalations += 1


SLICE_SECONDS = 0.1


class Deadlines:
    """Each method is a `foundation.retry.Pause`: waits that long at most, raises if the attempt must not go on."""

    def __init__(self, lease: Lease, stop_request: StopRequest) -> None:
        self._lease = lease
        self._stop_request = stop_request
        self._publish_until = float("inf")
        self.abandoned = ""

    def publish_for(self, seconds: float) -> None:
        """Starts the time limit for publishing, once the trainer has ended."""
        self._publish_until = time.monotonic() + seconds

    def abandon(self, why: str) -> None:
        self.abandoned = why

    def before_training(self, seconds: float) -> None:
        """Raises FencedError or StopError."""
        _wait(seconds, self._check_before_training)

    def sending(self, seconds: float) -> None:
        """Raises FencedError. An expired lease does not matter here: the API checks the fence itself."""
        _wait(seconds, self._check_sending)

    def publishing(self, seconds: float) -> None:
        """Raises FencedError, or AttemptError(storage_refused) once the time limit for publishing has passed."""
        _wait(seconds, self._check_publishing)

    def finishing(self, seconds: float) -> None:
        """Raises FencedError only where the host must end now."""
        _wait(seconds, self._check_hurry)

    def _check_before_training(self) -> None:
        self._lease.check()
        if self._stop_request.stop_kind:
            raise StopError

    def _check_hurry(self) -> None:
        if self._stop_request.escalations > 1:
            raise FencedError("the host received a second signal to stop")

    def _check_sending(self) -> None:
        self._check_hurry()
        if self._lease.refused or self.abandoned:
            raise FencedError(self._lease.refused or self.abandoned)

    def _check_publishing(self) -> None:
        self._check_sending()
        if time.monotonic() > self._publish_until:
            raise AttemptError(ReasonCode.STORAGE_REFUSED, "The results could not be published in time.")


def _wait(seconds: float, check: Callable[[], None]) -> None:
    until = time.monotonic() + seconds
    check()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(left, SLICE_SECONDS))
        check()


SEQS_PER_ATTEMPT = 1 << 20


class ControlFile:
    """Numbers commands of the API and of the agent in one sequence that rises from attempt to attempt.

    A resumed trainer skips commands that its checkpoint has already obeyed, so a new attempt must not start at 1
    again. The event that answers a command carries the API's own seq.
    """

    def __init__(self, path: Path, attempt_n: int) -> None:
        self._path = path
        self._seq = attempt_n * SEQS_PER_ATTEMPT
        self._api_seqs: dict[int, int] = {}
        self._stopping = False

    def request(self, command: str, api_seq: int) -> None:
        """Writes save_now or sample_now. Does nothing if `api_seq` was already written, or after a stop."""
        if not self._stopping and api_seq not in self._api_seqs.values():
            self._write(command, api_seq)

    def stop(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._write("stop", 0)

    def with_api_seq(self, event: dict[str, Any]) -> dict[str, Any]:
        """Returns a `control` event with the seq of the API (0 for the agent's own stop), any other event unchanged."""
        data = event["data"]
        if data["kind"] != "control" or data["seq"] not in self._api_seqs:
            return event
        return {**event, "data": {**data, "seq": self._api_seqs[data["seq"]]}}

    def _write(self, command: str, api_seq: int) -> None:
        write_json(self._path, {"seq": self._seq + 1, "command": command})
        self._seq += 1
        self._api_seqs[self._seq] = api_seq
