"""Checkpoints of image models in one file, as their authors and ComfyUI lay them out; told by their tensors' names."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from foundation.strict_json import json_object_read

MAX_HEADER_BYTES = 100 << 20
UNET = "model.diffusion_model."
TRANSFORMER = ("model.diffusion_model.", "")
VAE = ("first_stage_model.", "vae.")
SDXL_MARK = "model.diffusion_model.label_emb.0.0.weight"
SD3_MARK, FLUX_MARK = "joint_blocks.0.x_block.attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight"
INPUT_MARK = "model.diffusion_model.input_blocks.0.0.weight"
NAMES = {"sd1": "Stable Diffusion 1.x", "sd2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL", "sd3": "SD3",
         "flux": "Flux.1"}  # fmt: skip
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sd1": {"unet": (UNET,), "vae": VAE, "text_encoder": ("cond_stage_model.transformer.",)},
    "sd2": {"unet": (UNET,), "vae": VAE, "text_encoder": ("cond_stage_model.model.",)},
    "sdxl": {
        "unet": (UNET,),
        "vae": VAE,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    "sd3": {
        "transformer": TRANSFORMER,
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.clip_g.transformer.",),
        "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
    },
    "flux": {
        "transformer": TRANSFORMER,
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.",),
    },
}
"""By family and part: how the names of its tensors may begin."""
NEVER_INSIDE: dict[str, tuple[str, ...]] = {
    "sd1": ("tokenizer", "scheduler"),
    "sd2": ("tokenizer", "scheduler"),
    "sdxl": ("tokenizer", "tokenizer_2", "scheduler"),
    "sd3": ("tokenizer", "tokenizer_2", "tokenizer_3", "scheduler"),
    "flux": ("tokenizer", "tokenizer_2", "scheduler"),
}


class Checkpoint(NamedTuple):
    family: str
    parts: dict[str, str]
    """What its tensors' names begin with, by part of the diffusers layout."""

    @property
    def title(self) -> str:
        return NAMES[self.family]

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that have to come from elsewhere."""
        return (*(part for part in LAYOUTS[self.family] if part not in self.parts), *NEVER_INSIDE[self.family])


def checkpoint_of(keys: Collection[str]) -> Checkpoint | None:
    """By the names of a file's tensors; None where they are of no single-file checkpoint that we know."""
    names = set(keys)
    family = _family(names)
    if family is None:
        return None
    parts: dict[str, str] = {}
    for part, prefixes in LAYOUTS[family].items():
        for prefix in prefixes:
            present = _has_network(names, prefix) if part == "transformer" else _begins(names, prefix)
            if present and part not in parts:
                parts[part] = prefix
    return Checkpoint(family, parts)


def checkpoint_file(path: Path) -> Checkpoint | None:
    """Of a safetensors file, by its header alone. Raises JsonError or ValueError where it has none."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} is not a safetensors file: its header would have {length} bytes")
        header: Mapping[str, object] = json_object_read(file.read(length), f"{path.name}: the header")
    return checkpoint_of([name for name in header if name != "__metadata__"])


def _family(names: set[str]) -> str | None:
    if any(prefix + FLUX_MARK in names for prefix in TRANSFORMER):
        return "flux"
    if any(prefix + SD3_MARK in names for prefix in TRANSFORMER):
        return "sd3"
    if INPUT_MARK not in names:
        return None
    if SDXL_MARK in names:
        return "sdxl"
    return "sd2" if _begins(names, "cond_stage_model.model.") else "sd1"


def _has_network(names: set[str], prefix: str) -> bool:
    return prefix + FLUX_MARK in names or prefix + SD3_MARK in names


def _begins(names: set[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)
