"""Latencies of a job from submit to end, with a real worker host and the stub trainer."""

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from bench.measure import Row, milliseconds, percentile
from bench.overhead_api import fill, job_body
from bench.soak_check import stamps_read
from cli.http import Client, Record
from tests.faults.host import Host
from tests.faults.platform import Platform, eventually


def one_by_one(platform: Platform, client: Client, root: Path, samples: int) -> Iterator[Row]:
    """Runs one job at a time on an idle host that does not poll, so only a wake-up call can start it."""
    with closing(Host(platform, root / "called", "called", hears="calls", ANNEAL_API_URL=_url(platform))) as host:
        host.ready()
        _one(client, "called", "warm-up")
        done = [_one(client, "called", f"call-{n}") for n in range(samples)]
    offset = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    stamps = {(s.job, s.what): s.boottime + offset for s in stamps_read(platform.stub_folder / "stamps")}
    claimed = [_seconds(record["attempts"][0]["started"]) - sent for sent, record in done]
    met = percentile(claimed, 99) < 0.2
    yield Row("submit to claimed, an idle worker woken by a call", milliseconds(claimed), "p99 < 200 ms", met)
    starts = [stamps[r["name"], "start"] - _seconds(r["attempts"][0]["started"]) for _, r in done]
    yield Row("claimed to the trainer's first line (inputs cached)", milliseconds(starts))
    ends = [_seconds(record["ended"]) - stamps[record["name"], "end"] for _, record in done]
    yield Row("trainer's last line to succeeded (one adaptor published)", milliseconds(ends))


def throughput(platform: Platform, client: Client, root: Path, slots: int, jobs: int) -> Row:
    """Jobs per second of stub jobs of one step (30 ms), all queued before the host starts."""
    pool = f"many-{slots}"
    fill(platform, {client.post("jobs", job_body(pool, pool))["id"]: jobs - 1})
    settings = {"ANNEAL_SLOTS": str(slots), "ANNEAL_API_URL": _url(platform)}
    with closing(Host(platform, root / pool, pool, hears="both", **settings)):
        eventually(
            lambda: not client.get("jobs", search=pool, state="queued,claimed,running")["results"], 30 + 3 * jobs
        )
    records = list(client.pages("jobs", search=pool, limit=200))
    assert all(record["state"] == "succeeded" for record in records), "a stub job failed"
    first = min(_seconds(record["started"]) for record in records)
    last = max(_seconds(record["ended"]) for record in records)
    return Row(f"stub jobs through one worker, {slots} slots", f"{len(records) / (last - first):.1f} jobs/s")


def _one(client: Client, pool: str, name: str) -> tuple[float, Record]:
    """Runs one job; returns the time of its submit and its final record."""
    sent = time.time()
    job = client.post("jobs", job_body(name, pool))["id"]

    def ended() -> Record | None:
        record: Record = client.get(f"jobs/{job}")
        return record if record["ended"] else None

    record: Record = eventually(ended, what=f"the end of {name}")
    assert record["state"] == "succeeded", record["reason"]
    return sent, record


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _url(platform: Platform) -> str:
    return f"http://127.0.0.1:{platform.port}"
