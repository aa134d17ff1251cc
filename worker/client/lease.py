"""How long an attempt may run, by the last answer of the API, on a clock that also counts suspended time."""

import threading

from foundation.boottime import boottime
from worker.errors import FencedError


class Lease:
    """Renewed from the *sending* of an answered heartbeat; over when its time is up or the API refused it."""

    def __init__(self, sent_at: float, self_fence_seconds: float) -> None:
        self._self_fence_seconds = self_fence_seconds
        self.deadline = sent_at + self_fence_seconds
        self.refused = ""
        """Why the API refused the attempt; empty while it did not."""
        self.over = threading.Event()
        """Set once the attempt must end, so that waits can be cut short."""

    def renew(self, sent_at: float) -> None:
        if not self.over.is_set():
            self.deadline = max(self.deadline, sent_at + self._self_fence_seconds)

    def refuse(self, why: str) -> None:
        self.refused = self.refused or why
        self.over.set()

    def check(self) -> None:
        """Raises FencedError where the attempt must end."""
        if boottime() >= self.deadline:
            self.over.set()
        if self.over.is_set():
            raise FencedError(self.refused or "the lease ran out without an answered heartbeat")
