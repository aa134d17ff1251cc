"""Masks of masked_loss: how much each place of a latent counts, from an image's alpha or a mask beside it."""

# H height, W width (of latents)

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainers.image.data.augment import UNCHANGED, Change, rotated_crop
from trainers.image.data.buckets import Shape
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.pixels import Crop, decode_with, header_read, resized_size
from trainers.image.data.sources import Source, source_changed_at

MaskKind = Literal["alpha", "mask_column"]


def mask_of(row: ImageRow, kind: MaskKind, crop: Crop, height: int, width: int, change: Change = UNCHANGED) -> Tensor:
    """mask_1HW in [0, 1], fp32: cut, turned and flipped as the image is, then averaged down to height x width.

    An opaque image is seen whole. A mask of another size than its image is stretched over it.
    """
    image = mask_image(row, kind, crop, change)
    small = np.array(image.resize((width, height), Image.Resampling.BOX), dtype=np.float32)
    return torch.from_numpy(small)[None] / 255


def mask_image(row: ImageRow, kind: MaskKind, crop: Crop, change: Change = UNCHANGED) -> Image.Image:
    """8-bit grey, as large as the crop."""
    image = _mask_resized(row, kind, source_changed_at(row.source), resized_size(row, crop.shape))
    if change.degrees:
        image = rotated_crop(image, crop.box, change.degrees, Image.Resampling.BILINEAR)
    else:
        image = image.crop(crop.box)
    return ImageOps.mirror(image) if crop.flip else image


def mask_source(row: ImageRow, kind: MaskKind) -> Source | None:
    """What the mask is read from; None: the whole image counts."""
    if kind == "mask_column":
        return row.mask
    return row.source if header_read(row).has_alpha else None


@lru_cache(maxsize=1)
def _mask_resized(row: ImageRow, kind: MaskKind, _changed_at: int, size: Shape) -> Image.Image:
    source = mask_source(row, kind)
    if source is None:
        return Image.new("L", size, 255)
    where = f"mask of {row.where}" if kind == "mask_column" else row.where
    return decode_with(_alpha if kind == "alpha" else _grey, source, where).resize(size, Image.Resampling.BILINEAR)


def _alpha(image: Image.Image) -> Image.Image:
    return image.convert("RGBA").getchannel("A")


def _grey(image: Image.Image) -> Image.Image:
    """White counts, black does not; 16 bits are scaled."""
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64) // 257).clip(0, 255).astype(np.uint8))
    return image.convert("L")
