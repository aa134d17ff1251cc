"""Measures whether the example's adaptor shows its style: trains the example template at several ranks.

    python -m bench.demo_quality --ranks 4 8 16

Rows: the base, and for each rank the adaptor with the same prompts, adaptor + trigger word, and that again with the
kohya file reloaded; the same seeds in each. alpha is twice the rank, as in the template.
"""

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from cli.requests import yaml_load
from examples.shapes.draw import split_scenes
from examples.shapes.evaluate import contact_sheet, load_pipeline, sample
from examples.shapes.measure import shows_style
from trainers.contract.spec import folder_digest
from trainers.image.adaptors.file import KOHYA, WEIGHTS

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "shapes"
NUM_IMAGES = 50
STEPS = 20
GUIDANCE = 1.5
"""As the template evaluates: the adaptor is small beside its base, and strong guidance pushes the style away."""
SEED = 1000
TRIGGER, RELOADED = "adaptor + trigger", "the same, kohya file"


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    template = yaml_load(EXAMPLE / "template.yaml")
    images = {"base": sampled(load_pipeline(EXAMPLE / "base"), prompts())}
    lines = []
    for rank in args.ranks:
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            adaptor = trained_adaptor(template, rank, Path(folder))
            seconds = time.monotonic() - started
            rows = sampled_rows(adaptor, template["params"]["trigger_word"])
            if args.keep:
                shutil.copytree(adaptor, args.keep / f"rank-{rank}", dirs_exist_ok=True)
        lines.append(
            f"rank {rank}: trained {template['params']['max_train_steps']} steps in {seconds:.0f} s; {apart(rows)}"
        )
        images |= {f"rank {rank}: {name}": row for name, row in rows.items()}
    print("\n".join([*table(images), *lines, machine()]))
    if args.sheet:
        sheets = [contact_sheet(row, columns=25) for row in images.values()]
        Image.fromarray(np.concatenate(sheets)).save(args.sheet)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--sheet", type=Path, help="also write all images here, two lines per row")
    parser.add_argument("--keep", type=Path, help="also copy the adaptors to this folder")
    return parser.parse_args()


def trained_adaptor(template: dict[str, Any], rank: int, folder: Path) -> Path:
    """Runs the template as the worker would, without samples; returns the folder of the adaptor's weights."""
    inputs = {"model": EXAMPLE / "base", "dataset": EXAMPLE / "style"}
    params = {name: value for name, value in template["params"].items() if not name.startswith("eval_")}
    params |= {"lora_r": rank, "lora_alpha": 2 * rank}
    spec = {"name": template["name"], "method": template["method"], "params": params}
    spec["inputs"] = {role: input_ref(template[role], place) for role, place in inputs.items()}
    for role, place in inputs.items():
        shutil.copytree(place, folder / "in" / role)
    (folder / "spec.json").write_text(json.dumps(spec), encoding="utf-8")
    places = [str(folder / name) for name in ("spec.json", "in", "out", "cache")]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    subprocess.run([sys.executable, "-m", "trainers.run", *places], check=True, env=environment)
    return folder / "out" / "adaptor"


def input_ref(name: str, folder: Path) -> dict[str, str]:
    files = [
        {
            "path": path.relative_to(folder).as_posix(),
            "size": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return {"name": f"{name}@1", "key": f"local/{name}", "sha256": folder_digest(files)}


def prompts() -> list[str]:
    """Captions of held-back scenes, without background."""
    return [scene.short_caption for scene in split_scenes()[1][:NUM_IMAGES]]


def sampled_rows(adaptor: Path, trigger: str) -> dict[str, list[NDArray[np.uint8]]]:
    called = [f"{trigger}, {prompt}" for prompt in prompts()]
    pipeline = load_pipeline(EXAMPLE / "base")
    pipeline.load_lora_weights(adaptor, weight_name=WEIGHTS)
    rows = {"adaptor": sampled(pipeline, prompts()), TRIGGER: sampled(pipeline, called)}
    reloaded = load_pipeline(EXAMPLE / "base")
    reloaded.load_lora_weights(adaptor, weight_name=KOHYA)
    return rows | {RELOADED: sampled(reloaded, called)}


def apart(rows: dict[str, list[NDArray[np.uint8]]]) -> str:
    pairs = zip(rows[TRIGGER], rows[RELOADED], strict=True)
    most = max(int(np.abs(a.astype(int) - b).max()) for a, b in pairs)
    return f"the two files' images differ by at most {most} of 255"


def sampled(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> list[NDArray[np.uint8]]:
    return sample(pipeline, prompts, steps=STEPS, guidance=GUIDANCE, seed=SEED)


def table(rows: dict[str, list[NDArray[np.uint8]]]) -> list[str]:
    lines = [f"{NUM_IMAGES} images a row, {STEPS} steps, guidance {GUIDANCE}, seeds from {SEED}"]
    lines += [f"{'':<32}{'shows the style':>16}"]
    return lines + [f"{name:<32}{np.mean([shows_style(p) for p in row]):>16.0%}" for name, row in rows.items()]


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    cores = f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread"
    return f"{cores}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
