"""Peak memory and CPU time of a training by settings of glibc's allocator: python -m bench.malloc [--steps N]."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.measure import REPOSITORY, machine, table

EXAMPLE = REPOSITORY / "examples" / "shapes"
SETTINGS: dict[str, dict[str, str]] = {
    "as installed": {},
    "MALLOC_ARENA_MAX=2": {"MALLOC_ARENA_MAX": "2"},
    "MALLOC_TRIM_THRESHOLD_=134217728": {"MALLOC_TRIM_THRESHOLD_": "134217728"},
    "MALLOC_MMAP_THRESHOLD_=1073741824, MALLOC_TRIM_THRESHOLD_=1073741824": {
        "MALLOC_MMAP_THRESHOLD_": "1073741824",
        "MALLOC_TRIM_THRESHOLD_": "1073741824",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.malloc", description=__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    print(machine(), end="\n\n")
    with tempfile.TemporaryDirectory() as folder:
        training_run(Path(folder), args.steps, {})  # fills the cache of latents for all
        rows = [
            row(name, [training_run(Path(folder), args.steps, extra) for _ in range(args.rounds)])
            for name, extra in SETTINGS.items()
        ]
    print(table(["environment", "peak memory", "CPU time", "page faults"], rows))


def row(name: str, runs: list[tuple[float, float, int]]) -> list[str]:
    """The minima of the rounds, since other load on the machine only adds."""
    peaks, seconds, faults = zip(*runs, strict=True)
    return [f"`{name}`", f"{min(peaks):.0f} MB", f"{min(seconds):.1f} s", f"{min(faults):,}"]


def training_run(folder: Path, steps: int, extra: dict[str, str]) -> tuple[float, float, int]:
    """Peak resident megabytes, CPU-seconds and page faults of one training, start and imports included."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        command = spec_write(Path(place), steps)
        env = {**os.environ, **extra, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [*command, str(folder / "cache")], cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"the training ended with status {status}")
    return used.ru_maxrss / 1000, used.ru_utime + used.ru_stime, used.ru_minflt


def spec_write(place: Path, steps: int) -> list[str]:
    """Writes `spec.json` and `in/` of a training of the example; returns the command without its cache argument."""
    (place / "in").mkdir()
    (place / "in" / "model").symlink_to(EXAMPLE / "base")
    (place / "in" / "dataset").symlink_to(EXAMPLE / "style")
    params = {"adaptor_name": "x", "resolution": 64, "train_batch_size": 8, "max_train_steps": steps}
    inputs = {role: {"name": role, "key": role, "sha256": "0" * 64} for role in ("dataset", "model")}
    spec = {"name": "malloc", "method": "image_lora", "params": params, "inputs": inputs, "resources": {}}
    (place / "spec.json").write_text(json.dumps(spec))
    return [sys.executable, "-m", "trainers.run", *(str(place / name) for name in ("spec.json", "in", "out"))]


if __name__ == "__main__":
    main()
