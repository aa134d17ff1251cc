"""Compares our image loop with the plain one of example scripts, in CPU-seconds per step.

    python -m bench.image_loop [--photos FOLDER] [--steps 24] [--rounds 5]

The plain loop decodes, resizes and encodes its images and captions anew at every step and reads the loss back from
the device; ours is the job `image_lora`, from directory to directory, with latents and embeddings from its cache. Both
train the same LoRA pairs (r 8 on attention, AdamW) of the tests' random base at 128 px, batch 2, on one thread, by
turns in one process. Ours is the difference of two jobs with unequal numbers of steps, so that imports, loading and
saving cancel out; the table has medians of the rounds. The first job builds the cache, which is told apart, and the
same photos are also measured at the size that a camera gives them.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from bench.image_plain import PlainLoop
from bench.measure import machine, table
from tests.tiny_sd import build_tiny_sd
from trainers.job import run

PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "images" / "pd_photos"
RESOLUTION, BATCH = 128, 2
WARM_UP_STEPS = 4
CAMERA_SIDE = 4000
TARGET = 2.5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="images with captions in metadata.jsonl")
    parser.add_argument("--steps", type=int, default=24, help="measured steps per round")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="anneal-image-loop-") as folder:
        return measured(Path(folder), args.photos, args.steps, args.rounds)


def measured(root: Path, photos: Path, steps: int, rounds: int) -> int:
    base = build_tiny_sd(root / "base")
    large = enlarged(photos, root / "large")
    jobs = {kind: Jobs(root / kind, base, folder) for kind, folder in (("photos", photos), ("large", large))}
    starts = {kind: [job.seconds(1) for _ in range(2)] for kind, job in jobs.items()}
    loops = {kind: PlainLoop(base, job.photos, resolution=RESOLUTION, batch_size=BATCH) for kind, job in jobs.items()}
    seconds_by_kind: dict[str, list[float]] = {"ours": [], "photos": [], "large": []}
    for loop in loops.values():
        loop.train(WARM_UP_STEPS)
    for number in range(rounds):
        seconds_by_kind["ours"].append(per_step(jobs["photos"].seconds, steps))
        for kind, loop in loops.items():
            count = steps if kind == "photos" else max(1, steps // 4)
            seconds_by_kind[kind].append(cpu_seconds(partial(loop.train, count)) / count)
        medians = ", ".join(f"{kind} {values[-1]:.4f} s" for kind, values in seconds_by_kind.items())
        print(f"round {number + 1}: {medians}", file=sys.stderr)
    print("\n".join(report(seconds_by_kind, starts, jobs)))
    return 0 if median(seconds_by_kind["photos"]) / median(seconds_by_kind["ours"]) >= TARGET else 1


def enlarged(photos: Path, folder: Path) -> Path:
    """The same photos as JPEG files whose longer side is that of a 12-megapixel camera."""
    folder.mkdir()
    shutil.copy(photos / "metadata.jsonl", folder)
    for path in sorted(photos.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        scale = CAMERA_SIDE / max(image.size)
        image.resize((round(image.width * scale), round(image.height * scale))).save(folder / path.name)
    return folder


class Jobs:
    """Trainings of `photos` with a shared cache, each in its own folders."""

    def __init__(self, root: Path, base: Path, photos: Path) -> None:
        self.root = root
        self.base = base
        self.photos = photos
        self.cache = root / "cache"
        self.num_photos = sum(1 for line in (photos / "metadata.jsonl").read_text().splitlines() if line.strip())
        self._count = 0

    def seconds(self, steps: int) -> float:
        """CPU-seconds of one job of `steps` steps."""
        self._count += 1
        folder = self.root / f"job-{self._count}"
        (folder / "in").mkdir(parents=True)
        (folder / "in" / "model").symlink_to(self.base)
        (folder / "in" / "dataset").symlink_to(self.photos)
        (folder / "spec.json").write_text(json.dumps(spec_of(steps)), encoding="utf-8")
        codes: list[int] = []
        seconds = cpu_seconds(
            lambda: codes.append(run(folder / "spec.json", folder / "in", folder / "out", self.cache))
        )
        if codes != [0]:
            raise RuntimeError(f"the training failed: {(folder / 'out' / 'events.jsonl').read_text()[-2000:]}")
        shutil.rmtree(folder)
        return seconds

    def cache_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.cache.rglob("*") if path.is_file())


def spec_of(steps: int) -> dict[str, Any]:
    params = {
        "adaptor_name": "bench",
        "max_train_steps": steps,
        "train_batch_size": BATCH,
        "resolution": RESOLUTION,
        "log_to_tensorboard": False,
    }
    inputs = {role: {"name": role, "key": role, "sha256": "0" * 64} for role in ("dataset", "model")}
    return {"name": "bench", "method": "image_lora", "params": params, "inputs": inputs}


def per_step(job_seconds: Callable[[int], float], steps: int) -> float:
    """CPU-seconds that a step adds to a job."""
    short = job_seconds(WARM_UP_STEPS)
    return (job_seconds(WARM_UP_STEPS + steps) - short) / steps


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def report(seconds_by_kind: dict[str, list[float]], starts: dict[str, list[float]], jobs: dict[str, Jobs]) -> list[str]:
    ours, plain, large = (median(seconds_by_kind[kind]) for kind in ("ours", "photos", "large"))
    ratio = plain / ours
    missed = "" if ratio >= TARGET else " (missed)"
    photos = jobs["photos"]
    build = {kind: (first - second) / jobs[kind].num_photos for kind, (first, second) in starts.items()}
    rows = [
        ("ours, a step", spread(seconds_by_kind["ours"]), ""),
        ("plain loop, a step", spread(seconds_by_kind["photos"]), ""),
        ("plain / ours", f"{ratio:.2f}x{missed}", f"at least {TARGET}x"),
        (f"plain loop, photos of {CAMERA_SIDE} px, a step", spread(seconds_by_kind["large"]), ""),
        ("plain / ours", f"{large / ours:.2f}x", ""),
        ("first job, of one step", f"{starts['photos'][0]:.2f} s", ""),
        ("second job, of one step, the cache warm", f"{starts['photos'][1]:.2f} s", ""),
        (
            "cache build, a photo (4 crops, its caption)",
            f"{build['photos']:.2f} s, {build['large']:.2f} s if large",
            "",
        ),
        ("cache on disk, a photo", f"{photos.cache_bytes() / photos.num_photos / 1024:.0f} KiB", ""),
    ]
    size = (
        f"{photos.num_photos} photos, {RESOLUTION} px, batch {BATCH}, median of {len(seconds_by_kind['ours'])} rounds"
    )
    return [machine(), f"{size} (least to most)", "", table(["CPU-seconds", "measured", "target"], rows)]


def spread(values: Sequence[float]) -> str:
    return f"{median(values):.3f} s ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    sys.exit(main())
