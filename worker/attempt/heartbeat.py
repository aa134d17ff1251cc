"""Heartbeat of one attempt: renews the lease and returns commands of the user."""

import threading
from collections.abc import Callable
from typing import Any

import structlog

from foundation.boottime import boottime
from foundation.protocol import FETCHING
from worker.client.api import AttemptApi
from worker.client.lease import Lease
from worker.errors import FencedError, RefusedError, UnreachableError

log = structlog.get_logger()


class Heartbeat:
    def __init__(
        self,
        api: AttemptApi,
        lease: Lease,
        *,
        fence: int,
        interval_seconds: float,
        progress_seq: Callable[[], int],
        on_answer: Callable[[dict[str, Any]], None],
    ) -> None:
        self._api = api
        self._lease = lease
        self._fence = fence
        self._interval_seconds = interval_seconds
        self._progress_seq = progress_seq
        self._on_answer = on_answer
        self._phase = FETCHING
        self._wake = threading.Event()
        self.answered = False
        """Whether the API has confirmed the fence. No trainer starts before that: a replayed claim may be stale."""

    def run(self, done: threading.Event) -> None:
        """Runs until `done` is set and `wake` is called, or the attempt is refused."""
        while not self._lease.refused:
            self._wake.wait(self.beat())
            self._wake.clear()
            if done.is_set():
                return

    def wake(self) -> None:
        """Ends the wait for the next heartbeat."""
        self._wake.set()

    def enter(self, phase: str) -> None:
        """Sets the phase before the first step and reports it to the API at once."""
        self._phase = phase
        self.wake()

    def _body(self) -> dict[str, Any]:
        return {"fence": self._fence, "progress_seq": self._progress_seq(), "phase": self._phase}

    def beat(self) -> float:
        """Sends one heartbeat. Returns the seconds until the next; fewer if this one was not answered."""
        sent_at = boottime()
        try:
            answer = self._api.post("heartbeat", self._body())
        except UnreachableError as error:
            log.warning("heartbeat_unanswered", error=str(error))
            return self._interval_seconds / 3
        except FencedError:
            return 0
        except RefusedError as error:
            self._lease.refuse(str(error))
            return 0
        self._lease.renew(sent_at)
        self.answered = True
        try:
            self._interval_seconds = float(answer.get("interval") or self._interval_seconds)
            self._on_answer(answer)
        except (TypeError, ValueError, KeyError) as error:  # of a newer API: the lease is renewed all the same
            log.error("heartbeat_answer_not_understood", answer=answer, error=f"{type(error).__name__}: {error}")
        return self._interval_seconds
