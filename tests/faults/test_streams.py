"""Live streams while many write and connections are cut at random: nothing is lost, nothing comes twice."""

import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from bench.overhead_api import job_body
from bench.simulated import SimulatedWorker
from cli.http import Record
from cli.platform.children import child_start, child_stop
from tests.faults.platform import WITHIN, Platform, another_api, eventually

JOBS, FOLLOWERS, EVENTS = 3, 4, 60
pytestmark = pytest.mark.slow


@contextmanager
def two_apis(platform: Platform) -> Iterator[list[str]]:
    """The addresses of both."""
    child, port = another_api(platform)
    child_start(child)
    eventually(lambda: platform.answers("api", port), what="the second API answers")
    yield [f"http://127.0.0.1:{platform.port}", f"http://127.0.0.1:{port}"]
    child_stop(child)


def write(worker: SimulatedWorker, claim: Record, seed: int) -> None:
    """Small batches and steps between them, as fast as they are taken; then the end."""
    chance, seq = random.Random(seed), 1
    while seq <= EVENTS:
        reported = [{"kind": "warning", "message": f"number {seq + n}"} for n in range(chance.randint(1, 4))]
        events = [{"seq": seq + n, "time": time.time(), "data": data} for n, data in enumerate(reported)]
        worker.emit(claim, "events", {"first_seq": seq, "events": events})
        worker.attempt_heartbeat(claim)
        seq += len(reported)
    end = {"outcome": "failed", "exit_code": 1, "reason": None, "manifest": None, "files": [], "last_step": 0}
    worker.emit(claim, "finish", end)


def follow(urls: list[str], token: str, job: str, seed: int, written: threading.Event) -> list[Record]:
    """What one follower was given whose connection is cut again and again, each time to any of the APIs."""
    chance, result = random.Random(seed), list[Record]()
    headers = {"Authorization": f"Bearer {token}"}
    deadline = time.monotonic() + WITHIN
    while time.monotonic() < deadline:
        last = str(result[-1]["seq"]) if result else "0"
        cut_after = chance.randint(0, 6) if not written.is_set() or chance.random() < 0.7 else 10**6
        address = f"{chance.choice(urls)}/api/v1/jobs/{job}/stream"
        with httpx.stream("GET", address, headers={**headers, "Last-Event-ID": last}, timeout=20) as response:
            if response.status_code == 204:
                return result
            assert response.status_code == 200, response.read()
            for line in response.iter_lines():
                if line.startswith("data: ") and (reported := json.loads(line[6:]))["time"] is not None:
                    result.append(reported)
                    cut_after -= 1
                if cut_after < 0 or time.monotonic() > deadline:
                    break
    raise AssertionError(f"job {job} did not end within {WITHIN} s; seen: {len(result)} events")


def test_cut_connections_lose_and_double_nothing_under_concurrent_writers(platform: Platform) -> None:
    worker = SimulatedWorker(f"http://127.0.0.1:{platform.port}", platform.worker_token, "streams", slots=JOBS)
    with platform.client as client:
        jobs = [client.post("jobs", job_body(f"streamed-{n}", "streams"))["id"] for n in range(JOBS)]
    claims = [worker.claim()[1] for _ in jobs]
    written = threading.Event()
    with two_apis(platform) as urls, ThreadPoolExecutor(JOBS * (FOLLOWERS + 1)) as threads:
        following = {
            (job, n): threads.submit(follow, urls, platform.token, job, n, written)
            for job in jobs
            for n in range(FOLLOWERS)
        }
        writing = [threads.submit(write, worker, claim, n) for n, claim in enumerate(claims) if claim]
        for done in writing:
            done.result()
        written.set()
        arguments = {key: done.result() for key, done in following.items()}
    with platform.client as client:
        for (job, n), result in arguments.items():
            recorded = list(client.pages(f"jobs/{job}/events"))
            assert [one["seq"] for one in result] == list(range(1, len(recorded) + 1)), f"follower {n} of {job}"
            assert result == recorded
