"""A dataset and a base model that the catalog accepts, made in a moment: no tensors are needed for stub trainers."""

import json
from pathlib import Path

from PIL import Image

CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "tokenizer": "CLIPTokenizer",
    "scheduler": "DDIMScheduler",
}
WITH_WEIGHTS = ("unet", "vae", "text_encoder")


def images_make(folder: Path) -> Path:
    folder.mkdir()
    for name in ("red", "green"):
        Image.new("RGB", (64, 64), name).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"all {name}")
    return folder


def base_make(folder: Path) -> Path:
    """A Stable Diffusion 1.x folder whose weights hold one number each."""
    folder.mkdir()
    index = {"_class_name": "StableDiffusionPipeline", **{part: ["library", name] for part, name in CLASSES.items()}}
    (folder / "model_index.json").write_text(json.dumps(index))
    for part in CLASSES:
        (folder / part).mkdir()
        (folder / part / "config.json").write_text("{}")
        if part in WITH_WEIGHTS:
            (folder / part / "model.safetensors").write_bytes(_one_number())
    return folder


def _one_number() -> bytes:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)
