"""From a source to the pixels that are trained on."""

# C channels, H height, W width

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
import pillow_heif
import torch
from PIL import Image, ImageOps
from torch import Tensor

from formats.images import MAX_ASPECT, MAX_PIXELS
from trainers.image.data.augment import UNCHANGED, Change, jitter, rotated_crop
from trainers.image.data.buckets import Shape
from trainers.image.data.image_rows import ImageRow, bad_dataset
from trainers.image.data.sources import Cell, Source, source_changed_at, source_file, source_name

pillow_heif.register_heif_opener(thumbnails=False)

TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
ORIENTATION = 0x0112
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
Interpolation = Literal["lanczos", "bilinear", "bicubic", "nearest"]
FILTERS: dict[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
TURN_FILTERS = FILTERS | {"lanczos": Image.Resampling.BICUBIC}
"""Pillow turns images with these only."""


class Crop(NamedTuple):
    """A place in the image, in pixels after the resize that makes it cover `shape`."""

    left: int
    top: int
    flip: bool
    shape: Shape

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.shape.width, self.top + self.shape.height


class ImageHeader(NamedTuple):
    """What an image's header says."""

    width: int
    """As seen, EXIF orientation applied."""
    height: int
    mode: str
    """PIL's name of the pixel format."""
    format: str
    orientation: int
    """EXIF; 1 = upright."""
    has_alpha: bool
    frames: int
    """More than 1: it moves, or has several pages; the first is trained on."""


def resized_size(row: ImageRow, shape: Shape) -> Shape:
    """Size as seen once the image just covers `shape`; only the header is read."""
    width, height = image_size(row)
    scale = max(shape.width / width, shape.height / height)
    resized = Shape(max(shape.width, round(width * scale)), max(shape.height, round(height * scale)))
    if math.prod(resized) > MAX_PIXELS:
        raise bad_dataset(
            f"{row.where}: {width} x {height} becomes {resized.width} x {resized.height} to cover "
            f"{shape.width} x {shape.height}; expected at most {MAX_PIXELS} pixels"
        )
    return resized


def image_size(row: ImageRow) -> tuple[int, int]:
    """(width, height) as seen, EXIF orientation applied; only the header is read."""
    seen = header_read(row)
    return seen.width, seen.height


def header_read(row: ImageRow) -> ImageHeader:
    """TrainerError BAD_DATASET: not a still image of at most MAX_PIXELS."""
    return _header(row, source_changed_at(row.source))


@lru_cache(maxsize=4096)
def _header(row: ImageRow, _changed_at: int) -> ImageHeader:
    with _opened(row.source, row.where) as image:
        width, height = image.size
        try:
            orientation = int(image.getexif().get(ORIENTATION, 1))
        except OSError as error:  # a PNG is read to its end for it
            raise bad_dataset(f"{row.where} cannot be decoded: {error}") from error
        except (SyntaxError, ValueError, TypeError) as error:
            raise bad_dataset(f"{row.where} has EXIF data that cannot be read: {error}") from error
        is_turned = orientation in TURNED and image.format != "TIFF"  # whose size Pillow gives as seen
        size = (height, width) if is_turned else (width, height)
        return ImageHeader(*size, image.mode, image.format or "", orientation, has_alpha(image), _frames(image))


def pixels(row: ImageRow, crop: Crop, *, interpolation: Interpolation, change: Change = UNCHANGED) -> Tensor:
    """pixels_CHW of the crop, fp32 in [-1, 1]. TrainerError BAD_DATASET names the image."""
    image = crop_image(row, crop, interpolation=interpolation, change=change)
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


def crop_image(row: ImageRow, crop: Crop, *, interpolation: Interpolation, change: Change = UNCHANGED) -> Image.Image:
    """The crop as an 8-bit RGB image: turned, cut, jittered, flipped."""
    size = resized_size(row, crop.shape)
    image = _resized(row, source_changed_at(row.source), size, interpolation)
    if change.degrees:
        image = rotated_crop(image, crop.box, change.degrees, TURN_FILTERS[interpolation])
    else:
        image = image.crop(crop.box)
    image = jitter(image, change)
    return ImageOps.mirror(image) if crop.flip else image


@lru_cache(maxsize=1)
def _resized(row: ImageRow, _changed_at: int, size: Shape, interpolation: Interpolation) -> Image.Image:
    """Kept for the next crop of the same image: decoding costs more than cropping."""
    return decode(row).resize(size, FILTERS[interpolation])


def decode(row: ImageRow) -> Image.Image:
    """8-bit RGB: EXIF orientation applied, 16 bits scaled to 8, transparency laid on white."""
    return decode_with(to_rgb, row.source, row.where)


def decode_with(convert: Callable[[Image.Image], Image.Image], source: Source, where: str) -> Image.Image:
    """`convert` of the whole image, EXIF orientation applied. TrainerError BAD_DATASET names `where`."""
    try:
        with _opened(source, where) as image:
            image.load()
            return convert(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise bad_dataset(f"{where} cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """ValueError: a mode whose range is not known."""
    if image.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"expected values of 16 bits, got {grey.min()}..{grey.max()}")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if has_alpha(image):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def has_alpha(image: Image.Image) -> bool:
    return image.mode in ALPHA_MODES or "transparency" in image.info


def _opened(source: Source, where: str) -> Image.Image:
    """Header only; refused where it promises too many pixels."""
    try:
        image = Image.open(source_file(source))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise bad_dataset(f"{where} cannot be read as an image: {_plain(error, source)}") from error
    if math.prod(image.size) > MAX_PIXELS:
        raise bad_dataset(f"{where}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}")
    if max(image.size) > MAX_ASPECT * max(1, min(image.size)):
        raise bad_dataset(
            f"{where}: expected the longer side at most {MAX_ASPECT} times the shorter, got "
            f"{image.width} x {image.height} pixels"
        )
    return image


def _frames(image: Image.Image) -> int:
    """What phones write counts as one: the image, then a preview of it or its depth."""
    return 1 if image.format in ("MPO", "HEIF") else int(getattr(image, "n_frames", 1))


def _plain(error: Exception, source: Source) -> str:
    """PIL's message without the worker's folders and its own objects."""
    if isinstance(source, Cell):
        return re.sub(r"<_io\.BytesIO object at \w+>", source_name(source), str(error))
    return str(error).replace(str(source), source.name)
