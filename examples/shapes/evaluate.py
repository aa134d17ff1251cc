"""Measures how well the base follows captions not used in training, with one image per held-back scene.

python -m examples.shapes.evaluate --base examples/shapes/base
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from examples.shapes.draw import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, split_scenes
from examples.shapes.measure import Reading, read_image

BATCH = 20
CHANCE = {
    "colour and shape": 1 / (len(COLOURS) * len(SHAPES)),
    "colour": 1 / len(COLOURS),
    "shape": 1 / len(SHAPES),
    "place": 1 / len(PLACES),
    "size": 1 / len(SIZES),
    "background": 1 / len(BACKGROUNDS),
}


def main() -> None:
    args = arguments()
    torch.set_num_threads(1)
    pipeline = load_pipeline(args.base)
    _, scenes = split_scenes()
    scenes = scenes[: args.num]
    captions = [scene.caption for scene in scenes]
    images = sample(pipeline, captions, steps=args.steps, guidance=args.guidance, seed=args.seed)
    print(f"{len(scenes)} held-back captions, {args.steps} DDIM steps, guidance {args.guidance}, seed {args.seed}")
    print("\n".join(table(scenes, [read_image(image) for image in images])))
    if args.sheet:
        Image.fromarray(contact_sheet(images)).save(args.sheet)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--num", type=int, default=200)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--sheet", type=Path, help="also write the images here, twenty in a row")
    return parser.parse_args()


def load_pipeline(folder: Path) -> StableDiffusionPipeline:
    """In fp32: half precision is slow or missing on CPU."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline, captions: Sequence[str], *, steps: int, guidance: float, seed: int
) -> list[NDArray[np.uint8]]:
    """One (64, 64, 3) image for each caption; image i starts from seed + i."""
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(captions), BATCH):
        batch = list(captions[start : start + BATCH])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(batch))]
        batch_BHWC = pipeline(
            batch, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        images.extend(np.round(batch_BHWC * 255).astype(np.uint8))
    return images


def table(scenes: Sequence[Scene], readings: Sequence[Reading]) -> list[str]:
    """One line for each property: share that agrees, and chance."""
    lines = [f"{'':<18}{'agrees':>8}{'chance':>8}"]
    for name, chance in CHANCE.items():
        fields = name.split(" and ")
        agree = [all(getattr(s, f) == getattr(r, f) for f in fields) for s, r in zip(scenes, readings, strict=True)]
        lines.append(f"{name:<18}{np.mean(agree):>8.1%}{chance:>8.1%}")
    return lines


def contact_sheet(images: Sequence[NDArray[np.uint8]], columns: int = 20) -> NDArray[np.uint8]:
    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images) - columns + 1, columns)]
    return np.concatenate(rows, axis=0)


if __name__ == "__main__":
    main()
