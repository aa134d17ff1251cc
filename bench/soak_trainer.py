"""The trainer of a soak's workers: the stub, or the real trainer after writing a stamp.

    python -m bench.soak_trainer spec.json in/ out/ cache/

Jobs whose name starts with `real-` run `trainers.run` in this very process: its pid is the one that was stamped.
"""

import json
import os
import sys
import time
from pathlib import Path

from tests.faults.stamps import Stamp, stamp_add, still_alive

REAL = "real-"


def main(folders: list[str]) -> None:
    job = json.loads(Path(folders[0]).read_text())["name"]
    module = "tests.faults.stub"
    if job.startswith(REAL):
        module = "trainers.run"
        stamp_start(job, Path(os.environ["STUB_FOLDER"]) / "stamps")
    os.execv(sys.executable, [sys.executable, "-m", module, *folders])


def stamp_start(job: str, path: Path) -> None:
    attempt = os.environ["ANNEAL_ATTEMPT"]
    others = still_alive(path, job, attempt)
    boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
    stamp_add(path, Stamp("start", job, attempt, os.getpid(), rank=0, step=0, boottime=boottime, others=others))


if __name__ == "__main__":
    main(sys.argv[1:])
