"""CPU of the API for each call, at a database with many jobs and many points of curves.

    python -m bench.api_scale [--jobs 100000] [--points 1000000] [--calls 100] [--databases sqlite postgresql]

Real API with the times of production. Half of the jobs are queued in one pool, the others have succeeded. A row is the
CPU (user and system) of the API's process for each of `calls` equal calls, one after the other; of the events it is the
time of all, as the worker sees it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench.measure import REPOSITORY, Row, cpu_seconds, machine, python
from bench.overhead import comparison
from bench.overhead_api import events_batch, job_body, step_event
from bench.running import bench_platform
from bench.simulated import SimulatedWorker
from cli.http import Client
from tests.faults.platform import Platform

POOL = "scale"
EVENT_BATCH = 500
"""What a worker sends at most in one request."""
KIB = 1024


def measure(platform: Platform, *, jobs: int, points: int, calls: int, steps: int) -> Iterator[Row]:
    url = f"http://127.0.0.1:{platform.port}"
    worker = SimulatedWorker(url, platform.worker_token, POOL, slots=2 * calls + 3)
    with platform.client as client:
        ids = [client.post("jobs", job_body(f"scale-{n}", POOL))["id"] for n in range(2)]
        claim = worker.claim()[1]
        assert claim is not None, "no job for the simulated worker"
        _fill(platform, ids[1], jobs, claim["attempt"]["id"], points)
        yield from _reads(platform, client, ids[1], calls)
        claims = _cpu(platform, calls, worker.claim)
        yield _row("claim", claims, 15)
        yield _row("heartbeat of an attempt", _cpu(platform, calls, lambda: worker.attempt_heartbeat(claim)), 6)
        for size in (1, EVENT_BATCH):
            other = worker.claim()[1]
            assert other is not None, "no further job for the simulated worker"
            yield _events(platform, worker, other, steps if size > 1 else min(steps, 500), size)


def _reads(platform: Platform, client: Client, job: str, calls: int) -> Iterator[Row]:
    yield _row("job, by its id", _cpu(platform, calls, lambda: client.get(f"jobs/{job}")), 8)
    yield _row("list of 50 jobs", _cpu(platform, calls, lambda: client.get("jobs", limit=50)), 15)
    kib = len(client.request("GET", "jobs", params={"limit": 50}).content) / KIB
    yield Row("size of that list", f"{kib:.0f} KiB", "at most 60 KB", kib * KIB <= 60_000)


def _events(platform: Platform, worker: SimulatedWorker, claim: Any, steps: int, size: int) -> Row:
    worker.emit(claim, "events", events_batch(1, [{"kind": "started", "total": steps, "step": 0}]))
    batches = [
        events_batch(2 + first, [step_event(first + n + 1) for n in range(min(size, steps - first))])
        for first in range(0, steps, size)
    ]
    process = _pid(platform)
    before, started = cpu_seconds(process), time.perf_counter()
    for batch in batches:
        worker.emit(claim, "events", batch)
    seconds, cpu = time.perf_counter() - started, cpu_seconds(process) - before
    target = "below 3 s" if size > 1 else ""
    what = f"events of {steps:,} steps, {size} in a request"
    return Row(what, f"{seconds:.2f} s, CPU {cpu:.2f} s", target, seconds < 3 if target else None)


def _cpu(platform: Platform, calls: int, call: Callable[[], Any]) -> float:
    """Milliseconds of the API's CPU for each call, without the first one."""
    call()
    before = cpu_seconds(_pid(platform))
    for _ in range(calls):
        call()
    return 1000 * (cpu_seconds(_pid(platform)) - before) / calls


def _row(what: str, milliseconds: float, most: float) -> Row:
    return Row(what, f"{milliseconds:.1f} ms", f"at most {most} ms", milliseconds <= most)


def _pid(platform: Platform) -> int:
    process = platform.children["api"].process
    assert process is not None
    return process.pid


def _fill(platform: Platform, job: str, jobs: int, attempt: str, points: int) -> None:
    calls = f"fill_mixed({job!r}, {jobs})\nfill_points({attempt!r}, {points})"
    script = f"from bench.fill import fill_mixed, fill_points\n{calls}"
    python("-m", "api", "shell", "-c", script, env={**platform.env, "PYTHONPATH": str(REPOSITORY)})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=100)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    arguments = parser.parse_args()
    rows: dict[str, dict[str, Row]] = {}
    for database in arguments.databases:
        root = tempfile.TemporaryDirectory(prefix="anneal-scale-")
        with root, bench_platform(Path(root.name), database) as platform:
            sizes = {name: getattr(arguments, name) for name in ("jobs", "points", "calls", "steps")}
            for row in measure(platform, **sizes):
                rows.setdefault(row.what, {})[database] = row
                print(f"{database}: {row.what}: {row.measured}", file=sys.stderr, flush=True)
    print(f"{machine()}\n\n{comparison(rows, arguments.databases)}")
    return 0 if all(row.met is not False for each in rows.values() for row in each.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
