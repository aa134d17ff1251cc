"""Latencies and errors of a busy platform: many followers, workers and readers at once on one API process.

    python -m bench.load [--streams 200] [--workers 50] [--seconds 60] [--databases sqlite postgresql]

Real API and dispatcher with the times of production. Each worker has one job: it sends an event and a step every EVENT
seconds, a piece of log every LOG seconds, and both heartbeats every HEARTBEAT seconds. Streams are spread over them.
READERS read the list of jobs, a job, its log and its curves in turn, READS a second together. Every call is given up
after the worker's own timeout, 10 s. `stream lag` is from the event's row to its line at the follower.
"""

import argparse
import asyncio
import os
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from bench.measure import cpu_seconds, machine, percentile, table
from bench.overhead_api import fill, job_body
from bench.running import bench_platform
from bench.simulated import SimulatedWorker
from bench.streams import MIB, rss_bytes
from cli.http import Record, parse
from tests.faults.platform import Platform

EVENT, LOG, HEARTBEAT, READS = 2.0, 5.0, 15.0, 10.0
TIMEOUT_SECONDS = 10
OPENING_SECONDS = 60
WARM_UP_SECONDS = 3
"""Measured after all streams are open, since late followers first receive earlier events."""
TARGET_P99_SECONDS = 1.0
KINDS = ("events", "log append", "heartbeat", "list", "detail", "log read", "curves", "stream lag")
HEADS = ["", "calls", "errors", "timeouts", "p50", "p99", "most"]
SHOWN_MESSAGES = 5
"""Maximum errors of a kind."""


@dataclass
class Tally:
    seconds: list[float] = field(default_factory=list)
    errors: int = 0
    timeouts: int = 0
    messages: list[str] = field(default_factory=list)
    """Messages of the first errors."""

    def fail(self, message: str) -> None:
        self.errors += 1
        if len(self.messages) < SHOWN_MESSAGES:
            self.messages.append(message)

    def cells(self) -> list[str]:
        calls = str(len(self.seconds) + self.errors + self.timeouts)
        if not self.seconds:
            return [calls, str(self.errors), str(self.timeouts), "", "", ""]
        times = (percentile(self.seconds, 50), percentile(self.seconds, 99), max(self.seconds))
        return [calls, str(self.errors), str(self.timeouts), *(f"{1000 * one:.0f} ms" for one in times)]


@dataclass
class Load:
    """A platform under load. `tallies` has an entry for each of KINDS; setting `over` ends all tasks."""

    platform: Platform
    claims: list[Record]
    workers: list[SimulatedWorker]
    tallies: dict[str, Tally] = field(default_factory=lambda: {kind: Tally() for kind in KINDS})
    open_streams: set[int] = field(default_factory=set)
    opening_seconds: float = 0.0
    over: asyncio.Event = field(default_factory=asyncio.Event)
    measuring: bool = False

    @property
    def jobs(self) -> list[str]:
        return [claim["job"]["id"] for claim in self.claims]

    async def call(self, kind: str, send: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response | None:
        """The response; None without one or on an error."""
        started, tally = time.perf_counter(), self.tallies[kind] if self.measuring else Tally()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                answer = await send()
        except (TimeoutError, httpx.TimeoutException):
            tally.timeouts += 1
        except httpx.HTTPError as error:
            tally.fail(repr(error))
        else:
            if answer.is_error:
                tally.fail(f"{answer.status_code} {answer.text:.300}")
            else:
                tally.seconds.append(time.perf_counter() - started)
                return answer
        return None


async def follow(load: Load, client: httpx.AsyncClient, job: str, number: int = 0) -> None:
    """Reads one stream; a broken one counts as an error and is reopened."""
    headers = {"Authorization": f"Bearer {load.platform.token}"}
    while not load.over.is_set():
        try:
            async with client.stream("GET", f"/api/v1/jobs/{job}/stream", headers=headers, timeout=30) as answer:
                answer.raise_for_status()
                load.open_streams.add(number)
                async for line in answer.aiter_lines():
                    _lag_note(load, line)
        except httpx.TimeoutException:
            load.tallies["stream lag"].timeouts += 1
        except httpx.HTTPError as error:
            load.tallies["stream lag"].fail(repr(error))


def _lag_note(load: Load, line: str) -> None:
    for event in parse([line, ""]):
        if load.measuring and event and event["kind"] == "warning":
            lag = time.time() - datetime.fromisoformat(event["time"]).timestamp()
            load.tallies["stream lag"].seconds.append(lag)


async def work(load: Load, client: httpx.AsyncClient, worker: SimulatedWorker, claim: Record) -> None:
    """A worker's calls, each kind with its own interval and offset; calls without a response are repeated."""
    attempt = f"/internal/v1/attempts/{claim['attempt']['id']}"
    speaks = {"Authorization": f"Bearer {claim['attempt']['token']}"}
    seq, offset, line = 1, 0, b"step 1 loss 0.123456 learning rate 0.0001\n" * 20

    async def events() -> None:
        nonlocal seq
        body = {"first_seq": seq, "events": [_event(seq, _warning(seq)), _event(seq + 1, _step(seq))]}
        if answer := await load.call("events", lambda: client.post(f"{attempt}/events", json=body, headers=speaks)):
            seq = answer.json()["next_seq"]

    async def log() -> None:
        nonlocal offset
        headers = {**speaks, "Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        if answer := await load.call(
            "log append", lambda: client.patch(f"{attempt}/log", content=line, headers=headers)
        ):
            offset = int(answer.headers["Upload-Offset"])

    async def heartbeat() -> None:
        beat = {"fence": claim["attempt"]["fence"], "progress_seq": seq}
        await load.call("heartbeat", lambda: client.post(f"{attempt}/heartbeat", json=beat, headers=speaks))
        await load.call(
            "heartbeat", lambda: client.post("/internal/v1/workers/heartbeat", **worker.heartbeat_request())
        )

    async with asyncio.TaskGroup() as tasks:
        for seconds, act in ((EVENT, events), (LOG, log), (HEARTBEAT, heartbeat)):
            tasks.create_task(_each(load, seconds, act))


async def read(load: Load, client: httpx.AsyncClient) -> None:
    headers = {"Authorization": f"Bearer {load.platform.token}"}
    paths = {"list": "jobs?limit=50", "detail": "jobs/{}", "log read": "jobs/{}/log", "curves": "jobs/{}/metrics"}

    async def one() -> None:
        for kind, path in paths.items():
            address = f"/api/v1/{path.format(random.choice(load.jobs))}"
            await load.call(kind, lambda address=address: client.get(address, headers=headers))  # type: ignore[misc]

    await _each(load, len(paths), one)


async def _each(load: Load, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
    """Calls once per interval, later if the last call took longer."""
    due = time.monotonic() + random.random() * seconds
    while not load.over.is_set():
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await act()
        due = max(due + seconds, time.monotonic())


async def run(load: Load, streams: int, seconds: float) -> None:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    url = f"http://127.0.0.1:{load.platform.port}"
    async with (
        httpx.AsyncClient(base_url=url, limits=limits, timeout=TIMEOUT_SECONDS) as client,
        httpx.AsyncClient(base_url=url, limits=limits) as watching,
    ):
        calls: list[Any] = [work(load, client, *pair) for pair in zip(load.workers, load.claims, strict=True)]
        calls += [read(load, client) for _ in range(int(READS))]
        following = [follow(load, watching, load.jobs[n % len(load.jobs)], n) for n in range(streams)]
        tasks = [asyncio.create_task(one) for one in [*calls, *following]]
        await _all_open(load, streams)
        await asyncio.sleep(WARM_UP_SECONDS)
        load.measuring = True
        await asyncio.sleep(seconds)
        load.measuring = False
        load.over.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _all_open(load: Load, streams: int) -> None:
    """Raises TimeoutError."""
    started = time.perf_counter()
    async with asyncio.timeout(OPENING_SECONDS):
        while len(load.open_streams) < streams:
            await asyncio.sleep(0.05)
    load.opening_seconds = time.perf_counter() - started


def measure(platform: Platform, arguments: argparse.Namespace) -> tuple[list[list[str]], bool]:
    """The table's rows, and whether the target is met."""
    load = _claimed(platform, arguments.workers)
    process = platform.children["api"].process
    assert process is not None
    before, cpu, started = rss_bytes(platform), cpu_seconds(process.pid), time.perf_counter()
    asyncio.run(run(load, arguments.streams, arguments.seconds))
    share = (cpu_seconds(process.pid) - cpu) / (time.perf_counter() - started)
    rows = [[kind, *tally.cells()] for kind, tally in load.tallies.items()]
    memory = f"memory {before / MIB:.0f} MiB before, {rss_bytes(platform) / MIB:.0f} MiB at the end"
    for kind, tally in load.tallies.items():
        for message in tally.messages:
            print(f"error of {kind}: {message}", file=sys.stderr)
    opening = f"{arguments.streams} streams opened in {load.opening_seconds:.1f} s"
    rows.append([f"API: {memory}, {100 * share:.0f} % of a core; {opening}", "", "", "", "", "", ""])
    bad = sum(tally.errors + tally.timeouts for tally in load.tallies.values())
    times = load.tallies["events"].seconds
    return rows, bad == 0 and bool(times) and percentile(times, 99) < TARGET_P99_SECONDS


def _claimed(platform: Platform, count: int) -> Load:
    pool, url = "load", f"http://127.0.0.1:{platform.port}"
    with platform.client as client:
        first = client.post("jobs", job_body("load", pool))["id"]
    fill(platform, {first: count})
    with ThreadPoolExecutor(4) as threads:
        workers = list(threads.map(lambda _: SimulatedWorker(url, platform.worker_token, pool), range(count)))
        claims = [claim for _, claim in threads.map(lambda worker: worker.claim(), workers)]
    assert all(claims), "not every worker got a job"
    return Load(platform, [claim for claim in claims if claim], workers)


def _event(seq: int, data: Record) -> Record:
    return {"seq": seq, "time": time.time(), "data": data}


def _warning(seq: int) -> Record:
    return {"kind": "warning", "message": f"number {seq}"}


def _step(step: int) -> Record:
    speed = {"per_second": 1.0, "unit": "images", "peak_memory_bytes": 1, "eta_seconds": 1.0}
    metrics = {"loss": 0.5, "learning_rate": 1e-4, "grad_norm": 1.0}
    return {"kind": "step", "step": step, "total": 10**6, "epoch": 0.0, "metrics": metrics, **speed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    arguments, rows, good = parser.parse_args(), list[list[str]](), True
    for database in arguments.databases:
        root = tempfile.TemporaryDirectory(prefix="anneal-load-")
        with root, bench_platform(Path(root.name), database) as platform:
            measured, met = measure(platform, arguments)
        rows += [[f"{database}: {row[0]}", *row[1:]] for row in measured]
        good = good and met
    print(f"{machine()}, load {os.getloadavg()[1]:.1f} over 5 minutes\n\n{table(HEADS, rows)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
