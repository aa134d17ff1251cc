"""Does the example's adaptor show its style? Trains the example template, samples 50 pictures a row, counts.

    python -m bench.demo_quality

Rows: the base, the adaptor with the same prompts, and adaptor + trigger word; the same seeds in each.
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

from cli.values import yaml_load
from examples.shapes.draw import split_scenes
from examples.shapes.evaluate import contact_sheet, load_pipeline, sample
from examples.shapes.measure import shows_style
from trainers.spec import folder_digest

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "shapes"
NUM_PICTURES = 50
STEPS = 20
GUIDANCE = 1.5
"""As the template evaluates: the adaptor is small beside its base, and strong guidance pushes the style away."""
SEED = 1000


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    template = yaml_load(EXAMPLE / "template.yaml")
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        adaptor = trained_adaptor(template, Path(folder))
        train_seconds = time.monotonic() - started
        pictures = sampled_rows(adaptor, template["params"]["trigger_word"])
        if args.keep:
            shutil.copytree(adaptor, args.keep, dirs_exist_ok=True)
    print("\n".join(table(pictures)))
    print(f"trained {template['params']['max_train_steps']} steps in {train_seconds:.0f} s; {machine()}")
    if args.sheet:
        rows = [contact_sheet(row, columns=25) for row in pictures.values()]
        Image.fromarray(np.concatenate(rows)).save(args.sheet)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sheet", type=Path, help="also write all pictures here, two lines for each row")
    parser.add_argument("--keep", type=Path, help="also keep the adaptor in this folder")
    return parser.parse_args()


def trained_adaptor(template: dict[str, Any], folder: Path) -> Path:
    """Runs the template as the worker would, from directory to directory; the folder of the adaptor's weights."""
    inputs = {"model": EXAMPLE / "base", "dataset": EXAMPLE / "style"}
    spec = {"name": template["name"], "method": template["method"], "params": template["params"]}
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


def sampled_rows(adaptor: Path, trigger: str) -> dict[str, list[NDArray[np.uint8]]]:
    """50 pictures for each row, from prompts of held-back scenes that name no background."""
    pipeline = load_pipeline(EXAMPLE / "base")
    prompts = [scene.short_caption for scene in split_scenes()[1][:NUM_PICTURES]]
    rows = {"base": sampled(pipeline, prompts)}
    pipeline.load_lora_weights(adaptor)
    rows["adaptor"] = sampled(pipeline, prompts)
    rows["adaptor + trigger"] = sampled(pipeline, [f"{trigger}, {prompt}" for prompt in prompts])
    return rows


def sampled(pipeline: StableDiffusionPipeline, prompts: Sequence[str]) -> list[NDArray[np.uint8]]:
    return sample(pipeline, prompts, steps=STEPS, guidance=GUIDANCE, seed=SEED)


def table(rows: dict[str, list[NDArray[np.uint8]]]) -> list[str]:
    lines = [f"{NUM_PICTURES} pictures a row, {STEPS} steps, guidance {GUIDANCE}, seeds from {SEED}"]
    lines += [f"{'':<20}{'shows the style':>16}"]
    return lines + [f"{name:<20}{np.mean([shows_style(p) for p in row]):>16.0%}" for name, row in rows.items()]


def machine() -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    cores = f"{platform.machine()}, {os.cpu_count()} CPU cores, one thread"
    return f"{cores}, Python {platform.python_version()}, {versions}"


if __name__ == "__main__":
    main()
