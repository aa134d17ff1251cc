"""How an image becomes the crops that a draw chooses from: shapes, places, pixels, masks and augmentations.

Shapes are squares, or rectangles of about as many pixels (aspect-ratio buckets).
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

from formats.datasets.images import MAX_PIXELS
from trainers.core.noise import Purpose, stream, uniform
from trainers.image.data.image_rows import (
    ImageRow,
    Source,
    bad_dataset,
    decode,
    decode_with,
    header_read,
    image_size,
    source_changed_at,
)

MAX_STEP = 64
STEPS_PER_SIDE = 8
"""Sides differ by about an eighth of the resolution: 64 pixels at 512 and more, 32 at 256."""
MAX_STRETCH = 2
"""A side is at most the resolution times this, and at least the resolution divided by it: 4:1 is the thinnest."""
CROPS = 4
"""Places per image that a random crop is chosen from: each is encoded once."""
Interpolation = Literal["lanczos", "bilinear", "bicubic", "nearest"]


class Shape(NamedTuple):
    """Pixels."""

    width: int
    height: int


class Crop(NamedTuple):
    """A place in the image, in pixels after the resize that makes it cover `shape`."""

    left: int
    top: int
    flip: bool
    shape: Shape

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.shape.width, self.top + self.shape.height


@dataclass(frozen=True)
class Framing:
    shapes: tuple[Shape, ...]
    """One for squares; several are aspect-ratio buckets."""
    interpolation: Interpolation
    center_crop: bool
    random_flip: bool


@dataclass(frozen=True)
class View:
    """The crops of one image."""

    original: Shape
    """Before the resize, EXIF orientation applied."""
    resized: Shape
    """Just covers the shape."""
    shape: Shape
    crops: list[list[Crop]]
    """[flip][place]."""

    def sizes(self, crop: Crop) -> tuple[int, int, int, int, int, int]:
        """SDXL's time ids: original height and width; top and left of the crop, in the mirrored image if the crop is
        mirrored; height and width of the crop."""
        left = self.resized.width - self.shape.width - crop.left if crop.flip else crop.left
        return (self.original.height, self.original.width, crop.top, left, self.shape.height, self.shape.width)


def view_of(image: ImageRow, framing: Framing, sha256: str) -> View:
    """The places depend on the image's content (`sha256`) alone, so that jobs share the cache."""
    width, height = image_size(image)
    shape = shape_for(width, height, list(framing.shapes))
    resized = resized_size(image, shape)
    spare_x, spare_y = resized.width - shape.width, resized.height - shape.height

    def place(index: int) -> tuple[int, int]:
        if framing.center_crop:
            return spare_x // 2, spare_y // 2
        x, y = (uniform(int(sha256[:16], 16), Purpose.CROP_PLACE, index, axis) for axis in (0, 1))
        return int(x * (spare_x + 1)), int(y * (spare_y + 1))

    places = [place(index) for index in range(1 if framing.center_crop else CROPS)]
    flips = (False, True) if framing.random_flip else (False,)
    crops = [[Crop(left, top, flip, shape) for left, top in places] for flip in flips]
    return View(Shape(width, height), resized, shape, crops)


def resized_size(row: ImageRow, shape: Shape) -> Shape:
    """Size, EXIF orientation applied, at which the image just covers `shape`; reads only the header."""
    width, height = image_size(row)
    scale = max(shape.width / width, shape.height / height)
    resized = Shape(max(shape.width, round(width * scale)), max(shape.height, round(height * scale)))
    if math.prod(resized) > MAX_PIXELS:
        raise bad_dataset(
            f"{row.where}: {width} x {height} becomes {resized.width} x {resized.height} to cover "
            f"{shape.width} x {shape.height}; expected at most {MAX_PIXELS} pixels"
        )
    return resized


def shapes_of(resolution: int, multiple: int) -> list[Shape]:
    """All shapes of at most resolution x resolution pixels, from the tallest to the widest; one is the square."""
    step = max(multiple, min(MAX_STEP, 2 ** int(math.log2(resolution / STEPS_PER_SIDE))))
    shapes = {Shape(resolution, resolution)}
    for side in range(math.ceil(resolution / MAX_STRETCH / step) * step, resolution, step):
        other = min(resolution**2 // side, MAX_STRETCH * resolution) // step * step
        shapes |= {Shape(side, other), Shape(other, side)}
    return sorted(shapes)


def shape_for(width: int, height: int, shapes: list[Shape]) -> Shape:
    """The shape with the aspect ratio closest to the image's; of two equally close ones the larger."""
    aspect = math.log(width / height)
    return min(shapes, key=lambda shape: (abs(math.log(shape.width / shape.height) - aspect), -shape.width, shape))


def cropped_share(width: int, height: int, shape: Shape) -> float:
    """Share of an image's area that is cropped away if it covers the shape."""
    scale = max(shape.width / width, shape.height / height)
    return max(0.0, 1 - shape.width * shape.height / (width * scale * height * scale))


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
