"""Stable Diffusion 2.x: as 1.x, with the 23 lower layers of OpenCLIP-H for the text and often v-prediction.

That the last layer is left out is part of the text encoder's own config; v-prediction of the scheduler's.
"""

from pathlib import Path

import torch

from trainers.image.models.base import Base
from trainers.image.models.sd1 import (
    IS_FLOW,
    PIPELINE,
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
    "PIPELINE",
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
TITLE = "Stable Diffusion 2.x"
TEXT_WIDTH = 1024
"""Of OpenCLIP-H; by it a folder is told from Stable Diffusion 1.x, whose pipeline class is the same."""


def load(folder: Path, dtype: torch.dtype, device: torch.device | str) -> Base:
    return load_as(NAME, folder, dtype, device)
