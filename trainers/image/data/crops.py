"""The pixels and the mask of one crop, with its colour jitter and rotation: drawn for each sample of a step.

A rotated image is enlarged about its centre until its corners lie outside the frame, so that no border shows.
"""

# C channels, H height, W width (of the crop; of a mask in latents)

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from trainers.core.noise import Purpose, stream
from trainers.image.data.decoding import decode, decode_with, header_read
from trainers.image.data.framing import Crop, Interpolation, Shape, resized_size
from trainers.image.data.image_rows import ImageRow, Source, source_changed_at

HUES = 256
"""Steps of PIL's hue circle."""
FILTERS: dict[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
ROTATION_FILTERS = FILTERS | {"lanczos": Image.Resampling.BICUBIC}
"""Pillow rotates with these only."""
MaskKind = Literal["alpha", "mask_column"]


@dataclass(frozen=True)
class Augment:
    """How far a sample may be changed; each colour value is the half width of its range."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Share of the colour circle."""
    degrees: float = 0.0
    rotation_prob: float = 0.0

    @property
    def has_jitter(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def has_rotation(self) -> bool:
        return self.degrees > 0 and self.rotation_prob > 0


class Change(NamedTuple):
    """The augmentation of one sample."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    """Share of the colour circle, positive from red towards green."""
    degrees: float = 0.0
    """Counter-clockwise."""


UNCHANGED = Change()


def draw_change(augment: Augment, seed: int, step: int, position: int) -> Change:
    """Brightness, contrast and saturation are factors around 1; `rotation_prob` of the samples are rotated."""
    change = UNCHANGED
    if augment.has_jitter:
        spans = (augment.brightness, augment.contrast, augment.saturation)
        draws = stream(seed, Purpose.COLOR, step, position).uniform(-1, 1, 4)
        brightness, contrast, saturation = (1 + s * float(d) for s, d in zip(spans, draws[:3], strict=True))
        change = Change(brightness, contrast, saturation, augment.hue * float(draws[3]))
    if augment.has_rotation:
        coin, angle = (float(draw) for draw in stream(seed, Purpose.ROTATION, step, position).random(2))
        if coin < augment.rotation_prob:
            change = change._replace(degrees=augment.degrees * (2 * angle - 1))
    return change


def pixels(row: ImageRow, crop: Crop, *, interpolation: Interpolation, change: Change = UNCHANGED) -> Tensor:
    """pixels_CHW of the crop, fp32 in [-1, 1]. TrainerError BAD_DATASET names the image."""
    image = crop_image(row, crop, interpolation=interpolation, change=change)
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def crop_image(row: ImageRow, crop: Crop, *, interpolation: Interpolation, change: Change = UNCHANGED) -> Image.Image:
    """The crop as an 8-bit RGB image: rotated, cropped, jittered, flipped."""
    size = resized_size(row, crop.shape)
    image = _resized(row, source_changed_at(row.source), size, interpolation)
    if change.degrees:
        image = rotated_crop(image, crop.box, change.degrees, ROTATION_FILTERS[interpolation])
    else:
        image = image.crop(crop.box)
    image = jitter(image, change)
    return ImageOps.mirror(image) if crop.flip else image


@lru_cache(maxsize=1)
def _resized(row: ImageRow, _changed_at: int, size: Shape, interpolation: Interpolation) -> Image.Image:
    """Cached for the next crop of the same image: decoding costs more than cropping."""
    return decode(row).resize(size, FILTERS[interpolation])


def jitter(image: Image.Image, change: Change) -> Image.Image:
    """RGB: brightness, contrast around the mean grey, saturation, hue, in this order, each clipped to 8 bits."""
    for enhance, factor in (
        (ImageEnhance.Brightness, change.brightness),
        (ImageEnhance.Contrast, change.contrast),
        (ImageEnhance.Color, change.saturation),
    ):
        if factor != 1:
            image = enhance(image).enhance(factor)
    shift = round(change.hue * HUES)
    if not shift:
        return image
    hue, saturation, value = image.convert("HSV").split()
    shifted_hue = hue.point([(level + shift) % HUES for level in range(HUES)])
    return Image.merge("HSV", (shifted_hue, saturation, value)).convert("RGB")


def rotated_crop(image: Image.Image, box: tuple[int, int, int, int], degrees: float, filter_: int) -> Image.Image:
    """`image.crop(box)` of the image rotated about its centre and enlarged just enough to hide its corners."""
    left, top, right, bottom = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    zoom = cover_zoom(image.width, image.height, degrees)
    middle_x, middle_y = image.width / 2, image.height / 2
    a, b = cosine / zoom, -sine / zoom
    x, y = left - middle_x, top - middle_y
    coefficients = (a, b, a * x + b * y + middle_x, -b, a, -b * x + a * y + middle_y)
    return image.transform(
        (right - left, bottom - top), Image.Transform.AFFINE, coefficients, resample=Image.Resampling(filter_)
    )


def cover_zoom(width: int, height: int, degrees: float) -> float:
    """Factor by which a rotated width x height image must grow to cover its own frame again."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return cosine + sine * max(width / height, height / width)


def mask_of(row: ImageRow, kind: MaskKind, crop: Crop, height: int, width: int, change: Change = UNCHANGED) -> Tensor:
    """Loss weights of masked_loss, mask_1HW in [0, 1], fp32: changed as the image is, then averaged to height x width.

    An opaque image has the weight 1 everywhere. A mask of another size than its image is stretched over it.
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
    """Where the mask is read from; None: the image has none and counts everywhere."""
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
