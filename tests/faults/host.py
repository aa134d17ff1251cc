"""A worker host as a real process, reached through a proxy of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from cli.platform.children import tie_to_parent
from tests.faults.platform import Platform, eventually
from tests.faults.proxy import Proxy
from tests.worker.forked_host import ForkedHost
from tests.worker.forking_host import host_module
from worker.process.tree import WORKER_MARK, marked

STUB = [sys.executable, "-m", "tests.faults.stub"]
TWO_RANKS = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", STUB[-1]]
REPOSITORY = Path(__file__).parents[2]


class Host:
    """A worker host for one pool: `python -m worker`, or a fork of it.

    launcher: stands before the command, as `unshare` does. hears: how it learns of work; calls = polling is off.
    """

    def __init__(
        self,
        platform: Platform,
        folder: Path,
        pool: str,
        *,
        is_forked: bool = False,
        launcher: Sequence[str] = (),
        hears: Literal["polls", "calls", "both"] = "polls",
        **settings: str,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / "worker.log"
        self.api = Proxy(platform.port)
        self.broker = Proxy(platform.broker_port)
        self._command = [*launcher, sys.executable, "-m", host_module()]
        self._is_forked = is_forked and not launcher and host_module() == "worker"
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "ANNEAL_API_URL": self.api.url,
            "ANNEAL_WORKER_TOKEN": platform.worker_token,
            "ANNEAL_STATE_DIR": str(folder / "state"),
            "ANNEAL_ACCELERATORS": "none",
            "ANNEAL_POOLS": pool,
            "ANNEAL_TRAINER_COMMAND": " ".join(STUB),
            "ANNEAL_TRAINER_ENVIRONMENT": "STUB_FOLDER",
            "ANNEAL_TRAINER_READS": str(REPOSITORY),
            "ANNEAL_TRAINER_WRITES": str(platform.stub_folder),
            "ANNEAL_BACKOFF_SECONDS": "0.05",
            "ANNEAL_MIN_FREE_BYTES": "0",
            "STUB_FOLDER": str(platform.stub_folder),
            **({} if hears == "polls" else {"ANNEAL_BROKER_URL": f"redis://127.0.0.1:{self.broker.port}/0"}),
            **({"ANNEAL_POLL_SECONDS": "0"} if hears == "calls" else {}),
            **settings,
        }
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[bytes] | ForkedHost
        if self._is_forked:
            self.process = ForkedHost(self._env, self.log)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command, env=self._env, stdout=log, stderr=log, preexec_fn=tie_to_parent(signal.SIGKILL)
            )

    def ready(self) -> "Host":
        """Waits until it has said hello."""
        eventually(lambda: self.has_logged("worker_ready"), what=f"{self.folder.name} is ready")
        return self

    def has_logged(self, word: str) -> bool:
        return word in self.log.read_text()

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def worker(self) -> str:
        path = self.folder / "state" / "worker-id"
        return path.read_text() if path.exists() else ""

    def tree(self) -> set[int]:
        """Every process of this worker's attempts: shims, launchers, ranks."""
        return marked(WORKER_MARK, self.worker) if self.worker else set()

    def pids(self, word: str) -> list[int]:
        """Processes of the tree that have `word` as an argument."""
        return sorted(pid for pid in self.tree() if word in _arguments(pid))

    def is_forked(self, shim: int) -> bool:
        """Whether the shim is a child of a prepared process; a new program is one of the host."""
        parent = int(Path(f"/proc/{shim}/stat").read_text().rpartition(")")[2].split()[1])
        assert parent == self.process.pid or "worker.process.forker" in _arguments(parent), f"parent {parent}"
        return parent != self.process.pid

    def refused_finishes(self) -> list[Path]:
        return sorted((self.folder / "state" / "refused").glob("*/finish.json"))

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.kill()
        for pid in self.tree():
            with suppress(ProcessLookupError):  # it may end by itself meanwhile
                os.kill(pid, signal.SIGKILL)
        self.api.close()
        self.broker.close()


def _arguments(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []
