"""Encoded images and captions of random values in a real cache on disk, read as a training job reads them."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from bench.image_shapes import Shape
from trainers.core.cache import Store, Tensors
from trainers.image.data.examples import CaptionedImage, Encoding, Examples
from trainers.image.data.framing import UNCHANGED, Change, Crop, Framing, View
from trainers.image.data.framing import Shape as Pixels
from trainers.image.models.base import TextSettings

IMAGES = 16
HELD_BYTES = 8 << 30


@dataclass(frozen=True)
class RandomLatents:
    """As `examples.Latents`, of images that do not exist."""

    views: list[View]
    stores: dict[str, Store]

    def moments(self, row: int, _crop: Crop, _change: Change = UNCHANGED) -> Tensor:
        return self.stores["latents"][str(row)]["moments"]

    def mask(self, _row: int, _crop: Crop, _change: Change = UNCHANGED) -> Tensor | None:
        return None


def random_examples(shape: Shape, folder: Path) -> Examples:
    """`IMAGES` rows: fp32 moments, bf16 embeddings; each is written to `folder` and then held in memory."""
    square = Pixels(shape.pixels, shape.pixels)
    view = View(square, square, square, [[Crop(0, 0, flip=False, shape=square)]])
    keys = [str(row) for row in range(IMAGES)]
    latents = Store(folder / "latents", {key: partial(_moments, shape) for key in keys}, HELD_BYTES)
    texts = Store(folder / "texts", {key: partial(_embeddings, shape) for key in keys}, HELD_BYTES)
    image: Any = SimpleNamespace()
    encoding = Encoding(
        Framing((square,), "lanczos", center_crop=True, random_flip=False), True, "cached", TextSettings(), None
    )
    rows = [CaptionedImage(image, [key]) for key in keys]
    random_latents: Any = RandomLatents([view] * IMAGES, {"latents": latents})
    random_texts: Any = texts
    return Examples(rows, random_latents, random_texts, encoding)


def _moments(shape: Shape) -> Tensors:
    side = shape.pixels // 8
    return {"moments": torch.randn(2, shape.latent_channels, side, side)}


def _embeddings(shape: Shape) -> Tensors:
    return {name: torch.randn(*sizes).bfloat16() for name, sizes in shape.text.items()}
