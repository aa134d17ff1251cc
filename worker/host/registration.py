"""Who this worker is, and its registration with the API: hello, pulse, goodbye."""

import fcntl
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
from pydantic import ValidationError

from foundation.boottime import boottime
from foundation.protocol import OLDEST_API, PROTOCOL
from worker.client.api import Api
from worker.client.payloads import Timings
from worker.errors import RefusedError, UnreachableError
from worker.process.tree import ATTEMPT_MARK, WORKER_MARK, kill_until_none, mark_values, marked
from worker.transfer.files import write_bytes


class Identity:
    """`worker` stays, `boot` is new each time. Raises ValueError where another process holds the folder."""

    def __init__(self, state_dir: Path) -> None:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = (state_dir / "lock").open("a")  # held until the process ends
        try:
            fcntl.flock(self._lock.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another worker runs with ANNEAL_STATE_DIR={state_dir}; give each worker a folder of its own"
            ) from None
        self.worker = _id_in(state_dir / "worker-id")
        self.boot = str(uuid.uuid4())

    def close(self) -> None:
        self._lock.close()


def _id_in(path: Path) -> str:
    if not path.exists():
        write_bytes(path, str(uuid.uuid4()).encode())
    return str(uuid.UUID(path.read_text().strip()))


def sweep_earlier_boots(worker: str, pause: float = 0.02) -> set[str]:
    """Kills all that an earlier boot of this worker left running; returns the attempts that it belonged to."""
    attempts: set[str] = set()

    def find() -> set[int]:
        processes = marked(WORKER_MARK, worker)
        attempts.update(mark_values(ATTEMPT_MARK, processes))
        return processes

    killed = kill_until_none(find, lambda: time.sleep(pause))
    if killed:
        log.warning("swept_earlier_boot", processes=killed, attempts=sorted(attempts))
    return attempts


HELLO_HINT = "Check ANNEAL_API_URL; an API older than this worker answers so too: update it first."
log = structlog.get_logger()


class Registration:
    def __init__(self, api: Api, *, worker: str, boot: str, description: dict[str, Any]) -> None:
        self._api = api
        self._who = {"worker": worker, "boot_id": boot}
        self._description = description
        self.is_registered = False
        """The API counts this boot as the worker; hello is due while it does not."""
        self.draining = False
        """An operator asked through the API that this worker takes no more jobs."""
        self.quarantine: str | None = None
        """Code of the Reason for which the API gives this worker no jobs."""
        self._heard_at = boottime()

    def silence_seconds(self) -> float:
        return boottime() - self._heard_at

    def hello(self, gone: list[str]) -> Timings | None:
        """One try; None where it must be repeated. Raises RefusedError for what repeating cannot mend."""
        try:
            body = {**self._who, **self._description, "gone": gone, "protocol": PROTOCOL}
            answer = self._api.post("workers/hello", body) or {}
            times = Timings.model_validate(answer)
            _require_protocol(answer.get("protocol", 1))
        except (UnreachableError, ValidationError) as error:
            log.warning("hello_unanswered", error=str(error), hint=HELLO_HINT)
            return None
        except RefusedError as error:
            if error.code != "worker_identity_taken":
                raise
            log.warning("identity_taken", error=str(error))
            return None
        self.is_registered = True
        self._heard_at = boottime()
        self.draining = bool(answer.get("draining"))
        return times

    def beat(self, report: dict[str, Any]) -> None:
        """report: free_slots, room_bytes, self_check."""
        try:
            answer = self._api.post("workers/heartbeat", {**self._who, **report})
        except UnreachableError as error:
            log.warning("worker_heartbeat_unanswered", error=str(error))
        except RefusedError as error:
            log.error("worker_heartbeat_refused", error=str(error))
            self.is_registered = False
        else:
            self._heard_at = boottime()
            self.draining = bool((answer or {}).get("draining"))
            self.quarantine = (answer or {}).get("quarantine")

    def goodbye(self) -> None:
        try:
            self._api.post("workers/goodbye", self._who)
        except (UnreachableError, RefusedError) as error:
            log.warning("goodbye_unanswered", error=str(error))


def _require_protocol(protocol: Any) -> None:
    """Raises UnreachableError where the API is too old for this worker: it may be updated at any moment."""
    if not isinstance(protocol, int) or protocol < OLDEST_API:
        raise UnreachableError(
            f"the API speaks protocol {protocol}, this worker (protocol {PROTOCOL}) needs {OLDEST_API} or newer; "
            "update the API, or start a worker of the API's release"
        )


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
            if self._registration.is_registered:
                self._registration.beat(self._report())
                self._on_change()
