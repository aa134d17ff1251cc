"""Who this worker is: an id that survives restarts, held by one process at a time."""

import fcntl
import time
import uuid
from pathlib import Path

import structlog

from worker.process.tree import ATTEMPT_MARK, WORKER_MARK, kill_until_none, mark_values, marked
from worker.transfer.files import write_bytes

log = structlog.get_logger()


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
        found = marked(WORKER_MARK, worker)
        attempts.update(mark_values(ATTEMPT_MARK, found))
        return found

    killed = kill_until_none(find, lambda: time.sleep(pause))
    if killed:
        log.warning("swept_earlier_boot", processes=killed, attempts=sorted(attempts))
    return attempts
