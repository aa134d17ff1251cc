"""Time to the first denoising step of a sampling job, for the first and for later jobs of the same base model.

    python -m bench.residency [--jobs 4] [--base folder] [--steps 10]

One platform with production timings and one real worker host on the CPU. Times run from claim and from submit to the
first denoising step that the trainer reports. The base model is the random one of the tests unless --base names one.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.measure import Row, machine, table
from bench.running import bench_platform, tiny_make
from cli.http import Client, Record
from cli.uploads import folder_upload
from tests.faults.host import Host
from tests.faults.platform import Platform, eventually

POOL = "samples"
TARGET_SECONDS = 1.0


def rows(platform: Platform, client: Client, root: Path, base: Path, jobs: int, steps: int) -> Iterator[Row]:
    folder_upload(client, "models", "drawn", base)
    settings: dict[str, str] = {
        "ANNEAL_API_URL": f"http://127.0.0.1:{platform.port}",
        "ANNEAL_TRAINER_COMMAND": f"{sys.executable} -m trainers.run",
    }
    with closing(Host(platform, root / "host", POOL, hears="both", **settings)) as host:
        host.ready()
        processes = []
        for number in range(1, jobs + 1):
            claimed, submitted, details = _sampled(client, host, number, steps)
            processes.append(details["process"])
            first = number == 1
            what = "first job of the base model" if first else f"job {number} of the same base model"
            met = None if first else claimed < TARGET_SECONDS
            text = f"{claimed:.2f} s / {submitted:.2f} s / {'in memory' if details['was_in_memory'] else 'loaded'}"
            yield Row(what, text, "" if first else f"< {TARGET_SECONDS:g} s after the claim", met)
        same = len(set(processes)) == 1
        yield Row("processes that ran them", str(len(set(processes))), "1", same)


def _sampled(client: Client, host: Host, number: int, steps: int) -> tuple[float, float, Record]:
    """Seconds from claim and from submit to the first denoising step, and the details of the `started` event."""
    params: dict[str, Any] = {"prompt": "a dog", "num_inference_steps": steps, "seed": number}
    body = {"name": f"draw-{number}", "method": "sample_image", "params": params, "model": "drawn", "pool": POOL}
    sent = time.time()
    job = client.post("jobs", body)["id"]
    first, started = eventually(lambda: _first_step(host), 300, "the first denoising step")

    def ended() -> Record | None:
        record: Record = client.get(f"jobs/{job}")
        return record if record["ended"] else None

    record: Record = eventually(ended, 300, "the end of the sampling")
    assert record["state"] == "succeeded", record["reason"]
    eventually(lambda: not list((host.folder / "state" / "attempts").iterdir()), 60, "the attempt's folder is gone")
    claimed = datetime.fromisoformat(record["attempts"][0]["started"]).timestamp()
    return first - claimed, first - sent, started


def _first_step(host: Host) -> tuple[float, Record] | None:
    """Unix seconds of the running attempt's first denoising step, and the details of its `started` event."""
    started: Record = {}
    for path in (host.folder / "state" / "residents" / "rooms").glob("*/out/*/events.jsonl"):
        for line in path.read_text().splitlines(keepends=True):
            event = json.loads(line) if line.endswith("\n") else {"data": {"kind": ""}}
            if event["data"]["kind"] == "started":
                started = event["data"]["details"]
            if event["data"]["kind"] == "progress":
                return float(event["time"]), started
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--base", type=Path, help="folder of a base model; default: the random one of the tests")
    args = parser.parse_args()
    measured: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="anneal-residency-") as name:
        root = Path(name)
        if args.base is None:
            tiny_make(root / "tiny")
        with bench_platform(root / "platform", "sqlite") as platform, platform.client as client:
            for row in rows(platform, client, root, args.base or root / "tiny", args.jobs, args.steps):
                print(f"{row.what}: {row.measured}", file=sys.stderr)
                measured.append(row)
    heads = ("to the first denoising step", "after the claim / after submit / base model", "target")
    lines = [(row.what, row.measured + (" (missed)" if row.met is False else ""), row.target) for row in measured]
    print(f"{machine()}\n\n{table(heads, lines)}")
    return 0 if all(row.met is not False for row in measured) else 1


if __name__ == "__main__":
    sys.exit(main())
