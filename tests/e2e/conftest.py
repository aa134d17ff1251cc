"""One embedded platform for all flows: real processes, the tiny base model, `anneal` as the user types it."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from cli.config import Login
from cli.http import Client, Record
from cli.main import app
from cli.platform.children import tie_to_parent
from tests.patience import PATIENCE_SECONDS

SHORT_TIMES = {
    "ANNEAL_HEARTBEAT_SECONDS": "0.5",
    "ANNEAL_POLL_SECONDS": "1",
    "ANNEAL_DISPATCH_SECONDS": "0.5",
    "ANNEAL_STREAM_POLL_SECONDS": "0.1",
    "ANNEAL_ACCELERATORS": "none",
}
COLOURS = {"red": (220, 40, 40), "green": (40, 170, 70), "blue": (50, 100, 235), "yellow": (250, 220, 40)}
STOP_SECONDS = 60
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True)
class Embedded:
    """A running `anneal up`."""

    login: Login
    password: str
    root: Path
    pid: int
    ready: Record
    """What it printed when it was ready."""

    def anneal(self, *command: str, code: int = 0) -> str:
        """Runs one command as the user; returns its standard output."""
        done = self.run(*command)
        assert done.exit_code == code, f"anneal {' '.join(command)} gave {done.exit_code}: {done.output}"
        return done.stdout

    def run(self, *command: str, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(app, command, env=env or self.env)

    def json(self, *command: str, code: int = 0) -> Any:
        return json.loads(self.anneal(*command, "--json", code=code))

    @property
    def env(self) -> dict[str, str]:
        return {"ANNEAL_URL": self.login.url, "ANNEAL_TOKEN": self.login.token, "XDG_CONFIG_HOME": str(self.root)}

    def logs(self) -> str:
        return "\n".join(
            f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted((self.root / "logs").glob("*.log"))
        )


@dataclass(frozen=True)
class FirstStart:
    """What the first `anneal up` in a folder printed, and how it ended."""

    root: Path
    ready: Record
    exit_code: int
    left: list[str]
    """Ids of its children that were still there afterwards."""


@pytest.fixture(scope="session")
def first_start(tmp_path_factory: pytest.TempPathFactory) -> FirstStart:
    root = tmp_path_factory.mktemp("up")
    up, ready = started(root, ANNEAL_PREFORK="0")
    children = Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split()
    assert len(children) == 4, "broker, API, dispatcher, worker"
    up.terminate()
    exit_code = up.wait(STOP_SECONDS)
    return FirstStart(root, ready, exit_code, [pid for pid in children if Path(f"/proc/{pid}").exists()])


@pytest.fixture(scope="package")
def embedded(first_start: FirstStart) -> Iterator[Embedded]:
    """The second start in that folder. It ends with these tests: an idle platform slows the others."""
    up, ready = started(first_start.root)
    login = Login(ready["url"], first_start.ready["token"])
    yield Embedded(login, first_start.ready["password"], first_start.root, up.pid, ready)
    up.terminate()
    assert up.wait(STOP_SECONDS) == 0


def started(root: Path, *options: str, **settings: str) -> tuple["subprocess.Popen[str]", Record]:
    """`anneal up` in `root`, and what it printed when it was ready."""
    up = subprocess.Popen(
        [sys.executable, "-m", "cli", "up", "--dir", str(root), "--json", *options],
        env={**os.environ, **SHORT_TIMES, **settings},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=tie_to_parent(signal.SIGTERM),
    )
    assert up.stdout is not None
    return up, json.loads(up.stdout.readline())


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four plain images with captions."""
    folder = tmp_path_factory.mktemp("images")
    rows = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
        rows.append(json.dumps({"file_name": f"{name}.png", "text": f"all {name}"}))
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="package")
def platform(embedded: Embedded, images: Path, tiny_sd: Path) -> Embedded:
    """The platform with dataset `plain`, base model `tiny` and template `quick` on it."""
    embedded.anneal("model", "add", "tiny", str(tiny_sd))
    embedded.anneal("dataset", "add", "plain", str(images))
    expected = (
        "adaptor_name=plain",
        "trigger_word=zqx",
        "resolution=64",
        "max_train_steps=6",
        "checkpoint_every_steps=2",
    )
    requests = [word for setting in expected for word in ("--set", setting)]
    embedded.anneal(
        "template", "create", "quick", "--method", "image_lora", "--dataset", "plain", "--model", "tiny", *requests
    )
    return embedded


@pytest.fixture
def client(platform: Embedded) -> Iterator[Client]:
    with Client(platform.login) as client:
        yield client


def until(result: Callable[[], Any], seconds: float = PATIENCE_SECONDS, what: str = "it") -> Any:
    """The first true answer of `found`; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (answer := result()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.25)
    return answer


def ended(client: Client, job: str) -> Record:
    """The job once it is over."""
    terminal = ("succeeded", "failed", "cancelled", "paused")

    def over() -> Record | None:
        result: Record = client.get(f"jobs/{job}")
        return result if result["state"] in terminal else None

    result: Record = until(over, what=f"the end of job {job}")
    return result
