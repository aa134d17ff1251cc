"""The same spec on the platform and by hand: CPU-seconds, and the time to the first step."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.measure import REPOSITORY, Row, cpu_seconds, python
from bench.running import tiny_make
from cli.http import Client, Record
from cli.uploads import folder_upload
from tests.faults.host import Host
from tests.faults.platform import Platform, eventually

POOL = "trains"
IMPORTS = """
import time
started = time.perf_counter()
from pathlib import Path
from trainers.run import JOB, modules_import
from trainers.optional.libraries import libraries_hide, scipy_hide_unless_used
libraries_hide(())
scipy_hide_unless_used(Path("none"))
modules_import((JOB, "trainers.methods.image_lora"))
print(time.perf_counter() - started)
"""


FORKS = {"forked": "1", "new programs": "0"}
"""ANNEAL_PREFORK by the way of starting."""


@dataclass(frozen=True)
class Cost:
    cpu_seconds: float
    """Of the trainer; on the platform also of the shim and the worker host."""
    first_step_seconds: float
    """From the claim; by hand from the start of the process."""


def training(platform: Platform, client: Client, root: Path, *, steps: int, rounds: int) -> Iterator[Row]:
    """Compares both; the first round of each fills the caches and is not counted."""
    tiny_make(root / "tiny")
    folder_upload(client, "models", "tiny", root / "tiny")
    command = f"{sys.executable} -m trainers.run"
    settings: dict[str, Any] = {
        "ANNEAL_API_URL": f"http://127.0.0.1:{platform.port}",
        "ANNEAL_TRAINER_COMMAND": command,
    }
    on_platform, by_hand = [], []
    with closing(Host(platform, root / "trains", POOL, **settings)) as host:
        host.ready()
        for number in range(rounds + 1):
            on_platform.append(_on_platform(client, host, root / "by-hand", number, steps))
            by_hand.append(_by_hand(root / "by-hand", number))
    cpu = [statistics.median(cost.cpu_seconds for cost in costs[1:]) for costs in (on_platform, by_hand)]
    first = [statistics.median(cost.first_step_seconds for cost in costs[1:]) for costs in (on_platform, by_hand)]
    imports = statistics.median(float(python("-c", IMPORTS)) for _ in range(3))
    what = f"{cpu[0]:.2f} s on the platform, {cpu[1]:.2f} s by hand: {cpu[0] / cpu[1]:.3f}x"
    yield Row(f"CPU of {steps} training steps (image_lora, tiny base)", what, "<= 1.05x", cpu[0] <= 1.05 * cpu[1])
    beyond = first[0] - imports
    what = f"{first[0]:.2f} s, of it {imports:.2f} s imports: {beyond:.2f} s beyond (by hand {first[1]:.2f} s)"
    yield Row("claimed to the end of the first step", what, "< 1 s beyond imports", beyond < 1)


def ways_of_starting(platform: Platform, client: Client, root: Path, *, rounds: int) -> Iterator[Row]:
    """The same short job on two hosts of one platform, in turns; the first round fills the caches, uncounted."""
    tiny_make(root / "tiny")
    folder_upload(client, "models", "tiny", root / "tiny")
    settings = {"ANNEAL_API_URL": f"http://127.0.0.1:{platform.port}", "ANNEAL_TRAINER_COMMAND": ""}
    seconds: dict[str, list[float]] = {way: [] for way in FORKS}
    with ExitStack() as open_hosts:
        hosts = []
        for number, prefork in enumerate(FORKS.values()):
            name = f"way-{number}"
            host = Host(platform, root / name, name, hears="both", ANNEAL_PREFORK=prefork, **settings)
            hosts.append(open_hosts.enter_context(closing(host)).ready())
        for _ in range(rounds + 1):
            for number, way in enumerate(FORKS):
                name = f"{number}-{len(seconds[way])}"
                body = {**_body(name, 60), "pool": f"way-{number}"}
                seconds[way].append(_submit_to_first_step(client, hosts[number], body))
    medians = {way: statistics.median(values[1:]) for way, values in seconds.items()}
    what = ", ".join(f"{median:.2f} s {way}" for way, median in medians.items())
    yield Row(
        "submit to the end of the first step of a second image job", what, "< 1.5 s forked", medians["forked"] < 1.5
    )


def _submit_to_first_step(client: Client, host: Host, body: Record) -> float:
    sent = time.time()
    job = client.post("jobs", body)["id"]
    attempts = host.folder / "state" / "attempts"
    folder = eventually(lambda: next(attempts.glob("*/out/events.jsonl"), None), 120).parents[1]
    first: float = eventually(lambda: _first_step(folder), 120, "the first step")
    eventually(lambda: client.get(f"jobs/{job}")["ended"] and not folder.exists(), 300, "the end of the training")
    return first - sent


def _on_platform(client: Client, host: Host, copy: Path, number: int, steps: int) -> Cost:
    before = cpu_seconds(host.process.pid)
    job = client.post("jobs", _body(f"train-{number}", steps))["id"]
    folder = eventually(
        lambda: next((host.folder / "state" / "attempts").glob("*/out/events.jsonl"), None), 120
    ).parents[1]
    first = eventually(lambda: _first_step(folder), 120, "the first step")
    if not copy.exists():
        shutil.copytree(folder / "in", copy / "in")
        shutil.copy(folder / "spec.json", copy)

    def ended() -> Record | None:
        record: Record = client.get(f"jobs/{job}")
        time.sleep(0.2)
        return record if record["ended"] and not folder.exists() else None

    record: Record = eventually(ended, 600, "the end of the training")
    assert record["state"] == "succeeded", record["reason"]
    claimed = datetime.fromisoformat(record["attempts"][0]["started"]).timestamp()
    return Cost(cpu_seconds(host.process.pid) - before, first - claimed)


def _by_hand(folder: Path, number: int) -> Cost:
    out = folder / f"out-{number}"
    out.mkdir()
    places = [str(folder / "spec.json"), str(folder / "in"), str(out), str(folder / "cache")]
    started = time.time()
    with (folder / "log").open("ab") as log:
        command = [sys.executable, "-m", "trainers.run", *places]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, (folder / "log").read_text()[-2000:]
    first = _first_step(out.parent, out.name)
    assert first is not None, "no step by hand"
    return Cost(usage.ru_utime + usage.ru_stime, first - started)


def _first_step(folder: Path, out: str = "out") -> float | None:
    """Unix seconds of the first `step` event."""
    events = folder / out / "events.jsonl"
    lines = events.read_text().splitlines(keepends=True) if events.exists() else []
    complete = (json.loads(line) for line in lines if line.endswith("\n"))
    return next((float(event["time"]) for event in complete if event["data"]["kind"] == "step"), None)


def _body(name: str, steps: int) -> Record:
    params = {"adaptor_name": name, "max_train_steps": steps, "resolution": 64, "checkpoint_every_steps": 10_000}
    return {
        "name": name,
        "method": "image_lora",
        "params": {**params, "log_to_tensorboard": False},
        "dataset": "images",
        "model": "tiny",
        "pool": POOL,
        "resources": {"accelerators": 0},
    }
