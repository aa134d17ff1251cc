"""Overhead of the platform: latencies of jobs and API calls, and extra CPU time of a training.

    python -m bench.overhead [--quick] [--databases sqlite postgresql]

Starts one platform per database with production timings (heartbeats every 15 s). Worker hosts are real where jobs run
and simulated where only the API is measured. Latencies are p50 / p99 over HTTP, measured by the client.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Row, machine, table
from bench.overhead_api import claims, events, heartbeats
from bench.overhead_jobs import one_by_one, throughput
from bench.overhead_training import training, ways_of_starting
from bench.running import bench_platform

PARTS = ("jobs", "claims", "heartbeats", "events", "starts", "training")


def rows(database: str, root: Path, parts: list[str], quick: bool) -> Iterator[Row]:
    """Measures the parts; starts and training only once, since they do not depend on the database."""
    with bench_platform(root, database) as platform, platform.client as client:
        samples = 5 if quick else 100
        if "jobs" in parts:
            yield from one_by_one(platform, client, root, samples)
            for slots in (1, 4):
                yield throughput(platform, client, root, slots, samples)
        if "events" in parts:
            yield from events(platform, client, 5 if quick else 200)
        if "heartbeats" in parts:
            for workers in (5,) if quick else (50, 200):
                yield heartbeats(platform, client, workers, 1 if quick else 30)
        if "claims" in parts:
            for queued in (10, 300) if quick else (100, 100_000):
                yield from claims(platform, client, queued, 5 if quick else 200)
        if "starts" in parts:
            yield from ways_of_starting(platform, client, root, rounds=1 if quick else 5)
        if "training" in parts:
            yield from training(platform, client, root, steps=2 if quick else 60, rounds=1 if quick else 3)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few samples, to check that it runs")
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    args = parser.parse_args()
    measured: dict[str, dict[str, Row]] = {}
    for number, database in enumerate(args.databases):
        parts = [part for part in args.parts if part not in ("starts", "training") or number == 0]
        with tempfile.TemporaryDirectory(prefix="anneal-overhead-") as root:
            for row in rows(database, Path(root), parts, args.quick):
                print(f"{database}: {row.what}: {row.measured}", file=sys.stderr)
                measured.setdefault(row.what, {})[database] = row
    print(f"{machine()}\n\n{comparison(measured, args.databases)}")
    return 0 if all(row.met is not False for by in measured.values() for row in by.values()) else 1


def comparison(measured: dict[str, dict[str, Row]], databases: list[str]) -> str:
    """`measured`: rows by title and database. The table has a column for each database."""
    lines = []
    for what, by in measured.items():
        cells = [f"{by[d].measured}{' (missed)' if by[d].met is False else ''}" if d in by else "" for d in databases]
        lines.append((what, *cells, next(iter(by.values())).target))
    return table(["", *databases, "target"], lines)


if __name__ == "__main__":
    sys.exit(main())
