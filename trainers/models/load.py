"""Opens a base model folder. The family comes from the folder's own model_index.json, never from the user."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainers.errors import ReasonCode, TrainerError
from trainers.models import sd1
from trainers.models.base import Base

FAMILIES: dict[str, Callable[[Path, torch.dtype, torch.device | str], Base]] = {
    "StableDiffusionPipeline": sd1.load,
}
SUPPORTED = "Stable Diffusion 1.x (StableDiffusionPipeline)"


def load_base(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Base:
    """The base model of `folder` (diffusers layout, safetensors) in `dtype`, frozen, on `device`.

    Raises TrainerError(BAD_BASE_MODEL) that names what was found and what is supported.
    """
    name = model_index(folder).get("_class_name")
    if name not in FAMILIES:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected {SUPPORTED}, found {name or 'no _class_name'} in {folder.name}/model_index.json",
        )
    return FAMILIES[name](folder, dtype, device)


def model_index(folder: Path) -> dict[str, Any]:
    """model_index.json of `folder`, or TrainerError(BAD_BASE_MODEL)."""
    path = folder / "model_index.json"
    if not path.is_file():
        single = sorted(f.name for f in folder.glob("*.safetensors")) if folder.is_dir() else []
        found = f"found the single file {single[0]}" if single else "found none"
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected a model_index.json (diffusers layout) in the base model folder, {found}",
        )
    try:
        index = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"model_index.json is not JSON: {error}") from error
    if not isinstance(index, dict):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, "model_index.json is not a JSON object")
    return index
