"""A fake API and real worker hosts: each test gets its own, and nothing of it survives the test."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.patience import PATIENCE_SECONDS
from tests.worker.fake_api import WORKER_TOKEN, Attempt, FakeApi, fake_api
from tests.worker.forked_host import ForkedHost
from tests.worker.forking_host import host_module
from worker.process.tree import WORKER_MARK, marked

STUB = Path(__file__).with_name("stub_trainer.py")


def eventually(condition: Callable[[], Any], *, what: str = "") -> Any:
    """Polls until `condition()` is true and returns it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {PATIENCE_SECONDS} s: {what or condition}"
        time.sleep(0.02)
    return result


class HostProcess:
    """A worker host against `api`, with its state below `folder`; `as_program`: started as `python -m worker`."""

    def __init__(self, folder: Path, api: FakeApi, *, as_program: bool = False, **settings: str) -> None:
        self.folder = folder
        self._as_program = as_program or host_module() != "worker"
        self.stamps = folder / "stamps" / "lines"
        self.stamps.parent.mkdir()
        self.log = folder / "worker.log"
        self._env = {
            **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
            "OMP_NUM_THREADS": "1",
            "ANNEAL_API_URL": api.url,
            "ANNEAL_WORKER_TOKEN": WORKER_TOKEN,
            "ANNEAL_STATE_DIR": str(folder / "state"),
            "ANNEAL_ACCELERATORS": "none",
            "PYTHONPATH": str(STUB.parents[2]),
            "ANNEAL_TRAINER_COMMAND": f"{sys.executable} {STUB}",
            "ANNEAL_TRAINER_ENVIRONMENT": "STUB_STAMPS",
            "ANNEAL_TRAINER_READS": str(STUB.parent),
            "ANNEAL_TRAINER_WRITES": str(self.stamps.parent),
            "ANNEAL_BACKOFF_SECONDS": "0.05",
            "STUB_STAMPS": str(self.stamps),
            **settings,
        }
        self.start()

    def start(self) -> None:
        self.process: subprocess.Popen[bytes] | ForkedHost
        if not self._as_program:
            self.process = ForkedHost(self._env, self.log)
            return
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", host_module()], env=self._env, stdout=log, stderr=log
            )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def worker(self) -> str:
        return (self.folder / "state" / "worker-id").read_text()

    def tree(self) -> set[int]:
        """All processes of this worker's attempts."""
        return marked(WORKER_MARK, self.worker)

    def stamped(self, what: str) -> list[dict[str, Any]]:
        lines = self.stamps.read_text().splitlines() if self.stamps.exists() else []
        return [entry for line in lines if (entry := json.loads(line))["what"] == what]

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pid in self.tree() if (self.folder / "state" / "worker-id").exists() else ():
            with suppress(ProcessLookupError):  # it may end by itself meanwhile
                os.kill(pid, signal.SIGKILL)


StartHost = Callable[..., HostProcess]


def finished(api: FakeApi) -> Attempt:
    """The only attempt, once it has its end."""
    eventually(lambda: api.attempts and all(attempt.finish for attempt in api.attempts.values()), what="finish")
    return api.only()


def running(api: FakeApi) -> Attempt:
    """The only attempt, once its trainer has started."""
    eventually(lambda: api.attempts and "started" in api.only().kinds(), what="started")
    return api.only()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as running:
        yield running


@pytest.fixture
def start_host(tmp_path: Path, api: FakeApi) -> Iterator[StartHost]:
    with hosts(tmp_path, api) as start:
        yield start


@contextmanager
def hosts(root: Path, api: FakeApi, *, as_program: bool = False) -> Iterator[StartHost]:
    """A function that starts a worker host with more settings; all are ended at the end, and their logs shown."""
    started: list[HostProcess] = []

    def start(**settings: str) -> HostProcess:
        folder = root / f"host-{len(started)}"
        folder.mkdir()
        started.append(HostProcess(folder, api, as_program=as_program, **settings))
        return started[-1]

    yield start
    for host in started:
        host.close()
        print(host.log.read_text()[-6000:])
