"""Stable Diffusion 2.x: as 1.x, with the lower 23 layers of OpenCLIP-H as text encoder, and often v-prediction.

The config of the text encoder omits the last layer; the config of the scheduler sets v-prediction.
"""

from pathlib import Path

import torch

from trainers.image.models.base import Base
from trainers.image.models.sd1 import (
    IS_FLOW,
    PIXEL_MULTIPLE,
    caption_tokenizer,
    embed,
    encode_image,
    encode_text,
    load_as,
    predict,
    save,
    targets,
    text_targets,
    tokenize,
)

__all__ = [
    "IS_FLOW",
    "PIXEL_MULTIPLE",
    "caption_tokenizer",
    "embed",
    "encode_image",
    "encode_text",
    "predict",
    "save",
    "targets",
    "text_targets",
    "tokenize",
]

NAME = "sd2"


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    return load_as(NAME, folder, dtype, device)
