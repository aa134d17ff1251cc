"""The worker's standing with the API: hello, pulse, goodbye."""

import threading
from collections.abc import Callable
from typing import Any

import structlog

from worker.clock import boottime
from worker.report import Api, RefusedError, UnreachableError
from worker.times import Times

log = structlog.get_logger()


class Registration:
    def __init__(self, api: Api, *, worker: str, boot: str, description: dict[str, Any]) -> None:
        self._api = api
        self._who = {"worker": worker, "boot_id": boot}
        self._description = description
        self.known = False
        """The API counts this boot as the worker; hello is due while it does not."""
        self.draining = False
        """An operator asked through the API that this worker takes no more jobs."""
        self.quarantine: str | None = None
        """Code of the Reason for which the API gives this worker no jobs."""
        self._heard_at = boottime()

    def silence_seconds(self) -> float:
        return boottime() - self._heard_at

    def hello(self, gone: list[str]) -> Times | None:
        """One try; None where it must be repeated. Raises RefusedError for what repeating cannot mend."""
        try:
            answer = self._api.post("workers/hello", {**self._who, **self._description, "gone": gone})
        except UnreachableError as error:
            log.warning("hello_unanswered", error=str(error))
            return None
        except RefusedError as error:
            if error.status != 409:
                raise
            log.warning("identity_taken", error=str(error))
            return None
        self.known = True
        self._heard_at = boottime()
        self.draining = bool((answer or {}).get("draining"))
        return Times.model_validate(answer or {})

    def beat(self, report: dict[str, Any]) -> None:
        """report: free_slots, room_bytes, self_check."""
        try:
            answer = self._api.post("workers/heartbeat", {**self._who, **report})
        except UnreachableError as error:
            log.warning("worker_heartbeat_unanswered", error=str(error))
        except RefusedError as error:
            log.error("worker_heartbeat_refused", error=str(error))
            self.known = False
        else:
            self._heard_at = boottime()
            self.draining = bool((answer or {}).get("draining"))
            self.quarantine = (answer or {}).get("quarantine")

    def goodbye(self) -> None:
        try:
            self._api.post("workers/goodbye", self._who)
        except (UnreachableError, RefusedError) as error:
            log.warning("goodbye_unanswered", error=str(error))


class Pulse:
    """Beats in a thread until it is closed; `on_change` runs after each beat."""

    def __init__(
        self, registration: Registration, report: Callable[[], dict[str, Any]], on_change: Callable[[], None]
    ) -> None:
        self._registration = registration
        self._report = report
        self._on_change = on_change
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)
        self.seconds = 15.0

    def start(self, seconds: float) -> None:
        self.seconds = seconds
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._closing.wait(self.seconds):
            if self._registration.known:
                self._registration.beat(self._report())
                self._on_change()
