"""The pulse of one attempt: renews the lease and brings back what the user wants."""

import threading
from collections.abc import Callable
from typing import Any

import structlog

from worker.clock import boottime
from worker.lease import FencedError, Lease
from worker.report import AttemptApi, RefusedError, UnreachableError

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
        self.answered = False
        """The API has confirmed the fence; before that no trainer may start, since a replayed claim may be old."""

    def run(self, done: threading.Event) -> None:
        """Until `done` is set or the attempt is refused."""
        while not self._lease.refused:
            if done.wait(self.beat()):
                return

    def beat(self) -> float:
        """One heartbeat; returns the seconds until the next, fewer after one that got no answer."""
        sent_at = boottime()
        try:
            answer = self._api.post("heartbeat", {"fence": self._fence, "progress_seq": self._progress_seq()})
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
