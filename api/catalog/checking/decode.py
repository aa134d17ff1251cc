"""Decodes a whole image: what a header promises, its data may not hold."""

from pathlib import Path
from typing import NamedTuple

import pillow_heif
from PIL import AvifImagePlugin, Image, ImageOps

from api.catalog.checking.header import image_size
from api.catalog.checking.report import Refused
from api.catalog.checking.strip import has_gps, has_metadata
from formats.datasets.images import (
    FORMAT_ENDINGS,
    MAX_ASPECT,
    MAX_PIXELS,
    ORIENTATION,
    TURNED,
    depth_fault,
    frame_count,
    has_alpha,
)

HEAD_BYTES = 1 << 18
"""So much of an image is read to find its size."""
THUMBNAIL_SIDE = 256
FORMATS = (*FORMAT_ENDINGS, "MPO")
SMALLER = "Make it smaller, then upload again."

Image.MAX_IMAGE_PIXELS = None  # refused below, where the file is named
pillow_heif.register_heif_opener(thumbnails=False)
pillow_heif.options.DECODE_THREADS = 1  # more of them only take address space, which a check has little of
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


class ImageFacts(NamedTuple):
    width: int
    """Pixels, as seen: EXIF orientation applied."""
    height: int
    kind: str
    """By content, as in FORMAT_ENDINGS."""
    mode: str
    """Of PIL, as stored."""
    frames: int
    """More than 1: it moves, or has several pages; the first is what is trained on."""
    orientation: int
    """EXIF; 1 = upright."""
    gps: bool
    """Whether it says where it was taken."""
    metadata: bool
    """Whether it tells anything else beside its pixels."""


def image_decode(file: Path, name: str, thumbnail: Path) -> ImageFacts:
    """Writes a JPEG of at most THUMBNAIL_SIDE pixels a side. Raises Refused that names the image."""
    _header_check(file, name)
    try:
        with Image.open(file, formats=FORMATS) as image:
            _size_check(name, *image.size)
            frames = frame_count(image)
            kind = "JPEG" if image.format == "MPO" else str(image.format)
            image.load()
            gps, metadata = has_gps(image), has_metadata(image)
            orientation = image.getexif().get(ORIENTATION, 1)
            width, height = reversed(image.size) if orientation in TURNED else image.size
            thumbnail.parent.mkdir(parents=True, exist_ok=True)
            upright = _upright(small_rgb(image), orientation)
            upright.info.clear()  # Pillow would write comments and XMP of the photo into the thumbnail
            upright.save(thumbnail, "JPEG", quality=80)
            return ImageFacts(width, height, kind, image.mode, frames, orientation, gps, metadata)
    except (Refused, MemoryError):
        raise
    except Exception as error:  # PIL's decoders raise anything on bytes that are none of theirs
        raise Refused(f"{name} cannot be decoded: {_plain(error, file)}") from None


def small_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB as a trainer sees it: 16 bits scaled to 8, transparency laid on white. ValueError: unknown range."""
    if fault := depth_fault(image.mode):
        raise ValueError(fault)
    if image.mode.startswith("I"):
        return _scaled(image)
    if has_alpha(image.mode, image.info):
        small = _shrunk(image if image.mode == "RGBA" else image.convert("RGBA"))
        white = Image.new("RGBA", small.size, "white")
        return Image.alpha_composite(white, small).convert("RGB")
    return _shrunk(image if image.mode == "RGB" else image.convert("RGB"))


def _upright(small: Image.Image, orientation: int) -> Image.Image:
    """Turned as the whole image asks for: turning that one would take its memory twice."""
    small.getexif()[ORIENTATION] = orientation
    return ImageOps.exif_transpose(small)


def _scaled(image: Image.Image) -> Image.Image:
    grey = image.convert("I")
    if fault := depth_fault(image.mode, grey.getextrema()):  # type: ignore[arg-type]  # one band: two numbers
        raise ValueError(fault)
    return _shrunk(grey).point(lambda value: value * (1 / 257) + 0.5).convert("L").convert("RGB")


def _shrunk(image: Image.Image) -> Image.Image:
    scale = min(1, THUMBNAIL_SIDE / max(image.size))
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _header_check(file: Path, name: str) -> None:
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    try:
        width, height = image_size(head, name, is_complete=file.stat().st_size <= HEAD_BYTES)
    except ValueError as error:
        raise Refused(str(error)) from None
    if width and height:
        _size_check(name, width, height)


def _size_check(name: str, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        message = f"{name} is {width} x {height} = {width * height} pixels; at most {MAX_PIXELS} are accepted"
        raise Refused(message, hint=SMALLER)
    if max(width, height) > MAX_ASPECT * max(1, min(width, height)):
        message = (
            f"{name} is {width} x {height} pixels; expected the longer side at most {MAX_ASPECT} times the shorter"
        )
        raise Refused(message, hint="Crop it, then upload again.")


def _plain(error: Exception, file: Path) -> str:
    """PIL's message without our folders."""
    message = str(error).replace(str(file), file.name)
    return message if len(message) < 200 else type(error).__name__
