"""Opens and decodes images: their headers, and their pixels as 8-bit RGB."""

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageOps

from formats.images import MAX_ASPECT, MAX_PIXELS, ORIENTATION, TURNED, depth_fault, frame_count, has_alpha
from trainers.image.data.image_rows import (
    Cell,
    ImageRow,
    Source,
    bad_dataset,
    source_changed_at,
    source_file,
    source_name,
)

pillow_heif.register_heif_opener(thumbnails=False)


class ImageHeader(NamedTuple):
    """Facts from an image's header."""

    width: int
    """EXIF orientation applied."""
    height: int
    mode: str
    """PIL's name of the pixel format."""
    format: str
    orientation: int
    """EXIF; 1 = upright."""
    has_alpha: bool
    frames: int
    """More than 1: animated, or several pages; the first is trained on."""


def image_size(row: ImageRow) -> tuple[int, int]:
    """(width, height), EXIF orientation applied; reads only the header."""
    header = header_read(row)
    return header.width, header.height


def header_read(row: ImageRow) -> ImageHeader:
    """TrainerError BAD_DATASET: not an image of at most MAX_PIXELS."""
    return _header(row, source_changed_at(row.source))


@lru_cache(maxsize=4096)
def _header(row: ImageRow, _changed_at: int) -> ImageHeader:
    with _open(row.source, row.where) as image:
        width, height = image.size
        try:
            orientation = int(image.getexif().get(ORIENTATION, 1))
        except OSError as error:  # Pillow reads a PNG to its end for its EXIF data
            raise bad_dataset(f"{row.where} cannot be decoded: {error}") from error
        except (SyntaxError, ValueError, TypeError) as error:
            raise bad_dataset(f"{row.where} has EXIF data that cannot be read: {error}") from error
        is_sideways = orientation in TURNED and image.format != "TIFF"  # Pillow gives the upright size of a TIFF
        size = (height, width) if is_sideways else (width, height)
        return ImageHeader(
            *size, image.mode, image.format or "", orientation, has_alpha(image.mode, image.info), frame_count(image)
        )


def decode(row: ImageRow) -> Image.Image:
    """8-bit RGB: EXIF orientation applied, 16 bits scaled to 8, transparency over white."""
    return decode_with(to_rgb, row.source, row.where)


def decode_with(convert: Callable[[Image.Image], Image.Image], source: Source, where: str) -> Image.Image:
    """`convert` of the image, EXIF orientation applied. TrainerError BAD_DATASET names `where`."""
    try:
        with _open(source, where) as image:
            image.load()
            return convert(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise bad_dataset(f"{where} cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Raises ValueError for a mode whose range is not defined."""
    if fault := depth_fault(image.mode):
        raise ValueError(fault)
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if fault := depth_fault(image.mode, (int(grey.min()), int(grey.max()))):
            raise ValueError(fault)
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if has_alpha(image.mode, image.info):
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _open(source: Source, where: str) -> Image.Image:
    """Reads only the header; refuses one with too many pixels."""
    try:
        image = Image.open(source_file(source))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise bad_dataset(f"{where} cannot be read as an image: {_message(error, source)}") from error
    if math.prod(image.size) > MAX_PIXELS:
        raise bad_dataset(f"{where}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}")
    if max(image.size) > MAX_ASPECT * max(1, min(image.size)):
        raise bad_dataset(
            f"{where}: expected the longer side at most {MAX_ASPECT} times the shorter, got "
            f"{image.width} x {image.height} pixels"
        )
    return image


def _message(error: Exception, source: Source) -> str:
    """PIL's message without the worker's folders and the names of Python objects."""
    if isinstance(source, Cell):
        return re.sub(r"<_io\.BytesIO object at \w+>", source_name(source), str(error))
    return str(error).replace(str(source), source.name)
