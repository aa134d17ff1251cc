"""Brings the embedded platform up, keeps it up, and takes it down in order; makes the first user."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cli.config import PRIVATE
from cli.errors import CliError
from cli.http import Record
from cli.platform.children import (
    Child,
    Say,
    answers_ping,
    answers_ready,
    child_start,
    child_stop,
    children_check,
    log_tail,
    tie_to_parent,
    wait_until,
)
from cli.platform.home import (
    NOTHING_CHOSEN,
    NOTHING_REQUESTED,
    Home,
    Kinds,
    RequestedKinds,
    home_locked,
    home_open,
    home_ports,
    kinds_resolve,
    secret_key,
)
from cli.platform.postgres import postgres_start
from cli.platform.seaweed import saved_ports, seaweed_start
from cli.platform.services import (
    PYTHON,
    api_child,
    api_env,
    api_url,
    broker_child,
    dispatcher_child,
    worker_child,
    worker_env,
)
from foundation.atomic import text_write

BROKER_SECONDS = 5
CHECK_SECONDS = 0.3
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Platform:
    """What runs; `children` in the order of their start."""

    home: Home
    url: str
    first: Record
    """What `setup` made at this start: user, password, token; {} where it was there before."""
    kinds: Kinds = NOTHING_CHOSEN
    children: list[Child] = field(default_factory=list)


def platform_run(
    root: Path, say: Say, on_ready: Callable[[Platform], None], requested: RequestedKinds = NOTHING_REQUESTED
) -> None:
    """Runs the platform in `root` until a stop signal. Raises CliError where a part does not start."""
    home = home_open(root)
    with home_locked(home), stop_signals() as stops:
        platform = Platform(home=home, url="", first={}, kinds=kinds_resolve(home, requested))
        try:
            platform_start(platform, say)
            on_ready(platform)
            while not stops.wait(CHECK_SECONDS):
                children_check(platform.children, say)
        finally:
            platform_stop(platform, say, stops)


class Stops(threading.Event):
    """Set by the first stop signal; `hurry` by the second."""

    hurry = False

    def receive(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.hurry = self.is_set()
        self.set()


@contextmanager
def stop_signals() -> Iterator[Stops]:
    stops = Stops()
    before = {number: signal.signal(number, stops.receive) for number in STOP_SIGNALS}
    try:
        yield stops
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def platform_stop(platform: Platform, say: Say, stops: Stops) -> None:
    """The last started first: the worker drains while the API still listens. A second signal hurries it."""
    for child in reversed(platform.children):
        if not child.alive:
            continue
        say(f"stopping {child.name}")
        assert child.process is not None
        child.process.send_signal(child.stop_signal)
        deadline = time.monotonic() + child.stop_seconds
        while child.alive and time.monotonic() < deadline and not stops.hurry:
            time.sleep(0.05)
        child_stop(child, 10 if stops.hurry else 0)


def platform_start(platform: Platform, say: Say) -> None:
    home = platform.home
    ports = home_ports(home, saved_ports(home))
    platform.url = api_url(ports["api"])
    places = database_start(platform, ports["database"]) | storage_start(platform, ports.values())
    broker_url = broker_start(platform, ports["broker"], say)
    env = api_env(home, port=ports["api"], key=secret_key(home), broker_url=broker_url, places=places)
    run_once(home, env, "migrate", "--no-input")
    copy_hold(home, env, say)
    platform.first, worker_token = setup(home, env)
    begin(platform, api_child(home, env, ports["api"]))
    wait_until(lambda: answers_ready(platform.url), platform.children[-1])
    begin(platform, dispatcher_child(home, env))
    begin(platform, worker_child(home, worker_env(home, port=ports["api"], token=worker_token, broker_url=broker_url)))


def copy_hold(home: Home, env: dict[str, str], say: Say) -> None:
    """Pauses what waits and runs in the books of a backup, once, so that it does not start beside the original."""
    if home.copy_mark.exists():
        say(f"{home.root} is a copy. {run_once(home, env, 'hold').strip()}")
        home.copy_mark.unlink()


def database_start(platform: Platform, port: int) -> dict[str, str]:
    """Starts PostgreSQL where the folder asks for it; the API's variables that lead there."""
    if platform.kinds.database == "sqlite":
        return {}
    child, url = postgres_start(platform.home, port)
    platform.children.append(child)
    return {"ANNEAL_DATABASE_URL": url}


def storage_start(platform: Platform, taken: Collection[int]) -> dict[str, str]:
    """Starts SeaweedFS where the folder asks for it; the API's variables that lead there."""
    if platform.kinds.storage == "folder":
        return {}
    child, variables = seaweed_start(platform.home, taken)
    platform.children.append(child)
    return variables


def begin(platform: Platform, child: Child) -> None:
    child_start(child)
    platform.children.append(child)


def broker_start(platform: Platform, port: int, say: Say) -> str:
    """Starts Valkey and returns its URL; "" where that fails, since workers also poll."""
    child = broker_child(platform.home, port)
    if child is None:
        say("Valkey is not installed (anneal[embedded]): workers poll for jobs")
        return ""
    child_start(child)
    try:
        wait_until(lambda: answers_ping(port), child, BROKER_SECONDS)
    except CliError as error:
        child_stop(child)
        say(f"Valkey did not start, workers poll for jobs: {error}")
        return ""
    platform.children.append(child)
    return f"redis://127.0.0.1:{port}/0"


def setup(home: Home, env: dict[str, str]) -> tuple[Record, str]:
    """What the first user gets (once), and the worker's token, kept in the folder."""
    path = home.root / "worker_token"
    credentials = json.loads(run_once(home, env, "setup", "--json"))
    if not path.exists() and not credentials.get("worker_token"):
        credentials = json.loads(run_once(home, env, "setup", "--json", "--new-secrets"))
    if credentials.get("worker_token"):
        text_write(path, credentials["worker_token"], mode=PRIVATE)
    first = (
        {name: credentials[name] for name in ("user", "project", "password", "token")}
        if credentials.get("token")
        else {}
    )
    return first, path.read_text(encoding="utf-8")


def run_once(home: Home, env: dict[str, str], *command: str) -> str:
    """Runs `python -m api <command>` and returns what it printed."""
    log = home.logs / "setup.log"
    done = subprocess.run(
        [*PYTHON, "-m", "api", *command],
        env=env,
        cwd=home.logs,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
        preexec_fn=tie_to_parent(signal.SIGKILL),
    )
    with log.open("a", encoding="utf-8") as file:
        file.write(done.stderr if command[0] == "setup" else done.stdout + done.stderr)
    if done.returncode:
        raise CliError(f"`python -m api {command[0]}` ended with exit code {done.returncode}", log_tail(log))
    return done.stdout
