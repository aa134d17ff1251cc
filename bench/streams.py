"""Many live streams at once: memory, database connections, delay and completeness of events.

    python -m bench.streams [--streams 200] [--seconds 60] [--databases sqlite postgresql]

One real API process with the times of production. JOBS jobs say an event a second each, and each stream follows one of
them. Memory is the API's resident set. Connections are the most that a sample found, once a second: of PostgreSQL all
clients (API, dispatcher), busy where not idle in a pool; of SQLite how often the API has the file open.
"""

import argparse
import asyncio
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx
import psycopg

from bench.measure import cpu_seconds, machine, milliseconds, table
from bench.overhead_api import job_body
from bench.running import bench_platform
from bench.simulated import SimulatedWorker
from cli.http import Record, parse
from tests.faults.platform import Platform

JOBS = 10
WARM_UP_SECONDS = 3
MIB = 2**20


QUERY = """SELECT count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity
WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""


@dataclass(frozen=True)
class Sample:
    rss: int
    open: int
    busy: int


@dataclass
class Received:
    """Events that all followers received."""

    lags: list[float] = field(default_factory=list)
    wrong: int = 0
    """Duplicate events and events out of order."""
    events: int = 0


@dataclass(frozen=True)
class Measured:
    rss_before: int
    rss_open: int
    rss_after: int
    rss_closed: int
    most_open: int
    most_busy: int
    open_at_end: int
    cpu_share: float
    received: Received
    missing: int

    def cells(self) -> list[str]:
        mib = [f"{size / MIB:.0f}" for size in (self.rss_before, self.rss_open, self.rss_after, self.rss_closed)]
        received = self.received
        resources = [
            f"{' / '.join(mib)} MiB",
            f"{self.most_open} / {self.open_at_end} / {self.most_busy}",
            f"{100 * self.cpu_share:.0f} % of a core",
        ]
        return [*resources, str(received.events), milliseconds(received.lags), str(self.missing), str(received.wrong)]


HEADS = [
    "",
    "memory before / open / at the end / closed",
    "connections: most / at the end / most busy",
    "API",
    "events",
    "lag p50 / p99",
    "lost",
    "doubled",
]


def measure(platform: Platform, streams: int, seconds: float) -> Measured:
    worker = SimulatedWorker(f"http://127.0.0.1:{platform.port}", platform.worker_token, "streams", slots=JOBS)
    with platform.client as client:
        jobs = [client.post("jobs", job_body(f"told-{n}", "streams"))["id"] for n in range(JOBS)]
    claims = [claim for claim in (worker.claim()[1] for _ in jobs) if claim]
    assert len(claims) == JOBS, "not all jobs were claimed"
    asyncio.run(_follow_all(platform, jobs, JOBS, Received(), WARM_UP_SECONDS, threading.Event()))
    before = rss_bytes(platform)
    received, samples = Received(), list[Sample]()
    quiet, over = threading.Event(), threading.Event()
    with ThreadPoolExecutor(JOBS + 1) as threads:
        cpu, started = cpu_seconds(_pid(platform)), time.perf_counter()
        writing = [threads.submit(_write, worker, claim, quiet) for claim in claims]
        sampling = threads.submit(_sample, platform, samples, over)
        lasts = asyncio.run(_follow_all(platform, jobs, streams, received, seconds, quiet))
        share = (cpu_seconds(_pid(platform)) - cpu) / (time.perf_counter() - started)
        over.set()
        for done in [*writing, sampling]:
            done.result()
    with platform.client as client:
        recorded = [len(list(client.pages(f"jobs/{job}/events"))) for job in jobs]
    time.sleep(WARM_UP_SECONDS)
    settled = len(samples) // 4
    return Measured(
        rss_before=before,
        rss_open=max(one.rss for one in samples[: settled + 1]),
        rss_after=max(one.rss for one in samples[-settled - 1 :]),
        rss_closed=rss_bytes(platform),
        most_open=max(one.open for one in samples),
        most_busy=max(one.busy for one in samples),
        open_at_end=samples[-1].open,
        cpu_share=share,
        received=received,
        missing=sum(recorded[n % JOBS] - last for n, last in enumerate(lasts)),
    )


async def _follow_all(
    platform: Platform, jobs: list[str], streams: int, received: Received, seconds: float, quiet: threading.Event
) -> list[int]:
    """Opens the streams, reads them for so long, asks for quiet, and reads the rest; the newest seq that each has."""
    headers = {"Authorization": f"Bearer {platform.token}"}
    lasts = [0] * streams
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(headers=headers, limits=limits, timeout=30) as client:
        addresses = [
            f"http://127.0.0.1:{platform.port}/api/v1/jobs/{jobs[n % len(jobs)]}/stream" for n in range(streams)
        ]
        following = [asyncio.create_task(_follow(client, addresses[n], n, lasts, received)) for n in range(streams)]
        await asyncio.sleep(seconds)
        quiet.set()
        await asyncio.sleep(WARM_UP_SECONDS)
        for task in following:
            task.cancel()
        ended = await asyncio.gather(*following, return_exceptions=True)
    if broken := [error for error in ended if isinstance(error, Exception)]:
        raise broken[0]
    return lasts


async def _follow(client: httpx.AsyncClient, address: str, n: int, lasts: list[int], received: Received) -> None:
    """Reads a stream; `lasts[n]` is the seq of its newest event. A job's events are numbered from 1 without gaps."""
    async with client.stream("GET", address) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            for event in parse([line, ""]):
                if event and event["time"] is not None:
                    received.events += 1
                    received.wrong += event["seq"] != lasts[n] + 1
                    lasts[n] = event["seq"]
                    if event["kind"] == "warning":
                        received.lags.append(time.time() - datetime.fromisoformat(event["time"]).timestamp())


def _write(worker: SimulatedWorker, claim: Record, quiet: threading.Event) -> None:
    seq = 1
    while not quiet.wait(1):
        event = {"seq": seq, "time": time.time(), "data": {"kind": "warning", "message": f"number {seq}"}}
        worker.emit(claim, "events", {"first_seq": seq, "events": [event]})
        seq += 1


def _sample(platform: Platform, samples: list[Sample], over: threading.Event) -> None:
    while not over.wait(1):
        samples.append(Sample(rss_bytes(platform), *connections(platform)))


def rss_bytes(platform: Platform) -> int:
    lines = Path(f"/proc/{_pid(platform)}/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def connections(platform: Platform) -> tuple[int, int]:
    """Open, and busy."""
    if platform.database.url.startswith("sqlite"):
        file = platform.database.url.removeprefix("sqlite:///")
        result = sum(_leads_to(link, file) for link in Path(f"/proc/{_pid(platform)}/fd").iterdir())
        return result, result
    with closing(psycopg.connect(platform.database.url)) as connection:
        row = connection.execute(QUERY).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])


def _leads_to(link: Path, file: str) -> bool:
    """False for a descriptor that has been closed meanwhile."""
    try:
        return str(link.readlink()) == file
    except FileNotFoundError:
        return False


def _pid(platform: Platform) -> int:
    process = platform.children["api"].process
    assert process is not None
    return process.pid


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    args = parser.parse_args()
    rows, good = [], True
    for database in args.databases:
        with (
            tempfile.TemporaryDirectory(prefix="anneal-streams-") as root,
            bench_platform(Path(root), database) as platform,
        ):
            result = measure(platform, args.streams, args.seconds)
        rows.append([f"{args.streams} streams, {database}", *result.cells()])
        good = good and result.missing == result.received.wrong == 0
    print(f"{machine()}\n\n{table(HEADS, rows)}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
