"""Runs hundreds of jobs under random faults and checks that none is lost or runs twice.

    python -m bench.soak --jobs 500 --real 20 --minutes 8

For each database: Valkey, API, dispatcher and three workers as processes; jobs are submitted all along, with
Idempotency-Keys; every second or two something is killed, stopped or cut. Then all is mended, and a judge compares what
was accepted with the stamps of the trainers and the final REST records. Exit status 1 where one was lost or doubled.
"""

import argparse
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import machine, table
from bench.running import bench_platform, tiny_make
from bench.soak_check import Verdict, judge, stamps_read
from bench.soak_faults import Faults
from bench.soak_trainer import REAL
from cli.errors import CliError
from cli.http import Client
from cli.uploads import folder_upload
from tests.faults.host import Host
from tests.faults.platform import Platform

POOL = "soak"
SLOTS = 2
STEPS = 4
FIRST_FAULTS = 10
TIMES = {
    "HEARTBEAT_SECONDS": 1.5,
    "LEASE_SECONDS": 20,
    "SELF_FENCE_SECONDS": 10,
    "KILL_SECONDS": 1,
    "REQUEST_TIMEOUT_SECONDS": 4,
    "REAP_GRACE_SECONDS": 1,
    "REAP_GAP_SECONDS": 5,
    "POLL_SECONDS": 2,
    "DISPATCH_SECONDS": 1,
    "IDENTITY_SECONDS": 2,
    "MAX_LOSSES": 1000,  # repeated losses of workers are expected here
}
SETTINGS = {
    "ANNEAL_SLOTS": str(SLOTS),
    "ANNEAL_TRAINER_COMMAND": f"{sys.executable} -m bench.soak_trainer",
    "ANNEAL_BACKOFF_SECONDS": "0.3",
}
SETTLE_SECONDS = 90
"""Without a job ending for so long after the last repair, the remaining jobs count as lost."""


@dataclass(frozen=True)
class Plan:
    jobs: int
    real: int
    workers: int
    minutes: float
    seed: int
    pause_seconds: tuple[float, float] = (0.5, 2.5)
    faults_per_job: float = 0.5
    """At most so many faults per ended job, so that a slow machine makes progress too."""


@dataclass
class Result:
    database: str
    verdict: Verdict
    faults: Faults
    seconds: float
    accepted: int


@dataclass
class Submitter:
    """Submits every job once, with retries; at most `ahead` jobs wait at a time."""

    client: Client
    names: list[str]
    ahead: int
    accepted: dict[str, str] = field(default_factory=dict)
    """Id by name."""
    over: set[str] = field(default_factory=set)
    closed: bool = False
    """Set when no more jobs are submitted."""

    def run(self, stop: threading.Event) -> None:
        left = list(self.names)
        while not stop.is_set() and (left or len(self.over) < len(self.accepted)):
            if self.closed:
                left.clear()
            try:
                while left and len(self.accepted) - len(self.over) < self.ahead:
                    self._submit(left[0])
                    left.pop(0)
                self._look()
            except CliError:
                stop.wait(0.3)  # the API is down: retry with the same key
            stop.wait(0.7)

    def _submit(self, name: str) -> None:
        real = name.startswith(REAL)
        params = {"adaptor_name": name, "max_train_steps": STEPS, "checkpoint_every_steps": 2}
        small = {"resolution": 64, "log_to_tensorboard": False} if real else {}
        body = {
            "name": name,
            "method": "image_lora",
            "params": {**params, **small},
            "dataset": "images",
            "model": "tiny" if real else "base",
            "pool": POOL,
            "resources": {"accelerators": 0},
        }
        created = self.client.post("jobs", body, headers={"Idempotency-Key": f"soak-{name}"})
        self.accepted[name] = created["id"]

    def _look(self) -> None:
        submitted_names = set(self.accepted)
        live = {record["name"] for record in self.client.pages("jobs", state="queued,claimed,running", limit=200)}
        self.over = submitted_names - live


def soak(database: str, plan: Plan, root: Path) -> Result:
    with ExitStack() as open_:
        platform = open_.enter_context(bench_platform(root, database, direct=False, **TIMES))
        hosts = [Host(platform, root / f"worker-{n}", POOL, hears="both", **SETTINGS) for n in range(plan.workers)]
        for host in hosts:
            open_.callback(host.close)
        client = open_.enter_context(platform.client)
        if plan.real:
            tiny_make(root / "tiny")
            folder_upload(client, "models", "tiny", root / "tiny")
        return _run(database, platform, hosts, client, plan)


def _run(database: str, platform: Platform, hosts: list[Host], client: Client, plan: Plan) -> Result:
    started = time.monotonic()
    deadline = started + 60 * plan.minutes
    submitter = Submitter(client, job_names(plan), ahead=12 * plan.workers)
    faults = Faults(platform, hosts, random.Random(plan.seed))
    stop = threading.Event()
    thread = threading.Thread(target=submitter.run, args=(stop,))
    thread.start()
    printed_at = 0.0
    try:
        while thread.is_alive() and len(submitter.over) < 0.97 * len(submitter.names) and time.monotonic() < deadline:
            if faults.count.total() < FIRST_FAULTS + plan.faults_per_job * len(submitter.over):
                faults.step(plan.pause_seconds)
            faults.mend(until=time.monotonic())
            thread.join(0.05)
            if time.monotonic() > printed_at + 15:
                printed_at = time.monotonic()
                over = f"{len(submitter.over)} over of {len(submitter.accepted)} accepted"
                print(
                    f"{database} {printed_at - started:4.0f} s: {over}, {faults.count.total()} faults", file=sys.stderr
                )
        submitter.closed = True
        faults.mend()
        platform.heal()
        _settle(thread, submitter)
    finally:
        stop.set()
        thread.join()
    return _judged(database, platform, client, submitter, faults, time.monotonic() - started)


def _settle(thread: threading.Thread, submitter: Submitter) -> None:
    """Waits until all jobs have ended or no more jobs end."""
    over, since = -1, time.monotonic()
    while thread.is_alive() and time.monotonic() < since + SETTLE_SECONDS:
        if len(submitter.over) != over:
            over, since = len(submitter.over), time.monotonic()
        thread.join(0.2)


def _judged(
    database: str, platform: Platform, client: Client, submitter: Submitter, faults: Faults, seconds: float
) -> Result:
    records = {record["name"]: record for record in client.pages("jobs", limit=200)}
    adaptors: dict[str, int] = {}
    for adaptor in client.pages("adaptors", limit=200):
        adaptors[adaptor["name"]] = adaptor["version"]
    stamps = stamps_read(platform.stub_folder / "stamps")
    verdict = judge(submitter.accepted, records, adaptors, stamps)
    return Result(database, verdict, faults, seconds, len(submitter.accepted))


def job_names(plan: Plan) -> list[str]:
    """The jobs, with real trainings spread evenly among the stub jobs."""
    every = plan.jobs // plan.real if plan.real else plan.jobs + 1
    real = {n for n in range(plan.jobs) if n % every == every - 1 and n // every < plan.real}
    return [f"{REAL if n in real else 'stub-'}{n:04d}" for n in range(plan.jobs)]


def report(results: list[Result], plan: Plan) -> str:
    heads = ["database", "jobs", "minutes", "faults", "attempts lost", "resumed", "succeeded", "lost", "doubled"]
    rows = [
        (
            result.database,
            result.accepted,
            f"{result.seconds / 60:.1f}",
            result.faults.count.total(),
            result.verdict.attempts["lost"] + result.verdict.attempts["preempted"],
            result.verdict.resumed,
            result.verdict.states["succeeded"],
            len(result.verdict.lost),
            len(result.verdict.doubled),
        )
        for result in results
    ]
    kinds = sorted({kind for result in results for kind in result.faults.count})
    counted = [(kind, *(result.faults.count[kind] for result in results)) for kind in kinds]
    fault_table = table(["fault", *(result.database for result in results)], counted)
    return f"{plan}\n{machine()}\n\n{table(heads, rows)}\n\n{fault_table}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--real", type=int, default=20, help="how many of them are real trainings of the tiny base")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument(
        "--minutes", type=float, default=10, help="for each database; after it no faults and no submits"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--quick", action="store_true", help="5 jobs, none of them real")
    parser.add_argument("--keep", type=Path, help="working folder, not deleted; default: a temporary folder")
    options = parser.parse_args()
    jobs, real = (5, 0) if options.quick else (options.jobs, options.real)
    plan = Plan(jobs, real, options.workers, options.minutes, options.seed)
    results = []
    for database in options.databases:
        with tempfile.TemporaryDirectory(prefix="anneal-soak-") as temporary:
            root = (options.keep or Path(temporary)) / database
            root.mkdir(parents=True, exist_ok=True)
            results.append(soak(database, plan, root))
    print(report(results, plan))
    sentences = [f"{r.database}: {what}" for r in results for what in (*r.verdict.lost, *r.verdict.doubled)]
    print("\n".join(sentences[:100]))
    return 0 if all(result.verdict.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
