"""Cost of the sandbox around a trainer: from start to end, for a Python that does nothing.

    python -m bench.wall [--rounds 40]

Each kind in turn, so that a busy machine is busy for all of them. The start of torch is not in it: that takes seconds.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bench.measure import Row, machine, table
from foundation.boottime import boottime
from worker.process.supervise import Spawner, Supervisor
from worker.process.tree import ATTEMPT_MARK
from worker.sandbox.confine import Confinement
from worker.sandbox.wall_check import wall_here
from worker.settings import settings_read

TARGET_SECONDS = 0.05
RANKS_TARGET_SECONDS = 0.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="anneal-wall-") as root:
        rows = measured(Path(root), rounds)
    lines = [(row.what, row.measured, row.target) for row in rows]
    print(f"{machine()}\n\n{table(('', 'measured', 'target'), lines)}")
    return 0 if all(row.met is not False for row in rows) else 1


def measured(root: Path, rounds: int) -> list[Row]:
    (root / "worker-id").write_text("bench")
    places = {"ANNEAL_API_URL": "http://127.0.0.1", "ANNEAL_WORKER_TOKEN": "anw_bench", "ANNEAL_STATE_DIR": str(root)}
    before = time.perf_counter()
    wall = wall_here(settings_read(places), os.environ)
    check = time.perf_counter() - before
    wall.open_state()
    one, ranks = (
        wall.confinement(read=(), change=(root,), network=network, accelerators=False, project="bench")
        for network in ("none", "ranks")
    )
    kinds = {"no wall": Confinement(), wall.kind: one, f"{wall.kind}, ports for ranks": ranks}
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    spawner = Spawner()
    for _ in range(rounds):
        for kind, confinement in kinds.items():
            seconds[kind].append(_run(spawner, root, confinement))
    spawner.close()
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    plain = medians["no wall"]
    rows = [Row("shim and an empty Python, no wall", f"{plain * 1000:.0f} ms")]
    for kind, target in zip(list(kinds)[1:], (TARGET_SECONDS, RANKS_TARGET_SECONDS), strict=True):
        cost = medians[kind] - plain
        text = f"{medians[kind] * 1000:.0f} ms: {cost * 1000:+.0f} ms"
        rows.append(Row(f"the same behind {kind}", text, f"<= {target * 1000:.0f} ms more", cost <= target))
    return [*rows, Row("which wall works, once at the worker's start", f"{check * 1000:.0f} ms")]


def _run(spawner: Spawner, folder: Path, confinement: Confinement) -> float:
    with (folder / "log").open("ab") as log:
        before = time.perf_counter()
        supervisor = Supervisor(
            spawner,
            attempt="bench",
            command=[sys.executable, "-I", "-S", "-c", "pass"],
            folder=folder,
            env={"PATH": os.environ["PATH"], ATTEMPT_MARK: "bench"},
            log=log.fileno(),
            kill_seconds=1.0,
            deadline=boottime() + 60,
            confinement=confinement,
        )
    end = None
    while end is None:
        end = supervisor.wait(10.0)
    assert end.code == 0, f"expected status 0, got {end}: {(folder / 'log').read_text()}"
    return time.perf_counter() - before


if __name__ == "__main__":
    sys.exit(main())
