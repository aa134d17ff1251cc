"""What others want of a running attempt: the user through the API, the operator through signals."""

from worker.attempt.outcome import StopKind

STOP_ORDER: tuple[StopKind, ...] = ("drain", "pause", "cancel")
"""A later one wins over an earlier one."""


class StopRequest:
    def __init__(self, drain_seconds: float | None = None) -> None:
        self.drain_seconds = drain_seconds
        """Longest wait for a drained trainer's checkpoint; None = as long as for any stop."""
        self.stop_kind: StopKind | None = None
        self.escalations = 0
        """1: do not wait for the trainer's checkpoint; 2: do not wait for anything."""

    def stop(self, kind: StopKind) -> None:
        known = -1 if self.stop_kind is None else STOP_ORDER.index(self.stop_kind)
        self.stop_kind = STOP_ORDER[max(known, STOP_ORDER.index(kind))]

    def escalate(self) -> None:
        self.escalations += 1
