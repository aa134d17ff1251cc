"""Decodes a whole image: what a header promises, its data may not hold."""

import struct
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import pillow_heif
from PIL import AvifImagePlugin, Image, ImageOps

from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from formats.datasets.image_metadata import metadata_removed
from formats.datasets.images import (
    FORMAT_ENDINGS,
    IMAGE_NAMES,
    MAX_ASPECT,
    MAX_PIXELS,
    ORIENTATION,
    TURNED,
    depth_fault,
    frame_count,
    has_alpha,
    image_format,
)

JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of the frame headers, which hold height and width."""
JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD9)})
"""Markers without a length."""

TIFF_SIDES = (256, 257)
"""Tags of width and height."""
TIFF_SHORT = 3


def image_size(head: bytes, name: str, *, is_complete: bool) -> tuple[int, int]:
    """(width, height) in pixels; `whole` says that `head` is all of the file.

    (0, 0) for a JPEG or TIFF whose size lies behind `head`, and for HEIC and AVIF, whose own reader finds it before it
    decodes. Raises ValueError that names the file.
    """
    if image_format(head) in ("HEIF", "AVIF"):
        return 0, 0
    try:
        size = _size(head)
    except (struct.error, IndexError):
        if is_complete:
            raise ValueError(f"{name} ends in the middle of its header; it is not a whole image") from None
        return 0, 0
    if size is None:
        raise ValueError(f"{name} is not a {IMAGE_NAMES} image, whatever its name says")
    if min(size) < 1:
        raise ValueError(f"{name} says it is {size[0]} x {size[1]} pixels")
    return size


def _size(head: bytes) -> tuple[int, int] | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _pair(struct.unpack_from(">II", head, 16))
    if head.startswith(b"\xff\xd8"):
        return _jpeg_size(head)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp_size(head)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _pair(struct.unpack_from("<HH", head, 6))
    if head.startswith(b"BM"):
        width, height = struct.unpack_from("<ii", head, 18)
        return width, abs(height)
    if head[:4] in (b"II*\0", b"MM\0*"):
        return _tiff_size(head, "<" if head[:2] == b"II" else ">")
    return None


def _tiff_size(head: bytes, order: str) -> tuple[int, int]:
    at = struct.unpack_from(f"{order}I", head, 4)[0]
    sizes = {}
    for number in range(struct.unpack_from(f"{order}H", head, at)[0]):
        entry = at + 2 + 12 * number
        tag, kind = struct.unpack_from(f"{order}HH", head, entry)
        if tag in TIFF_SIDES:
            sizes[tag] = struct.unpack_from(f"{order}{'H' if kind == TIFF_SHORT else 'I'}", head, entry + 8)[0]
    return sizes.get(TIFF_SIDES[0], 0), sizes.get(TIFF_SIDES[1], 0)


def _jpeg_size(head: bytes) -> tuple[int, int]:
    at = 2
    while True:
        while head[at] != 0xFF or head[at + 1] in (0x00, 0xFF):
            at += 1
        marker = head[at + 1]
        if marker in JPEG_SIZES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return width, height
        at += 2
        if marker not in JPEG_ALONE:
            at += struct.unpack_from(">H", head, at)[0]


def _webp_size(head: bytes) -> tuple[int, int] | None:
    match head[12:16]:
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            bits = struct.unpack_from("<I", head, 21)[0]
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            width = int.from_bytes(_exactly(head, 24, 3), "little") + 1
            return width, int.from_bytes(_exactly(head, 27, 3), "little") + 1
    return None


def _exactly(head: bytes, start: int, length: int) -> bytes:
    piece = head[start : start + length]
    if len(piece) < length:
        raise IndexError(start)
    return piece


def _pair(values: tuple[int, ...]) -> tuple[int, int]:
    return values[0], values[1]


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


GPS_IFD, EXIF_IFD = 0x8825, 0x8769
TELLING_TAGS = (0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x8298)
"""Description, make, model, software, date, artist, copyright."""
TELLING_INFO = ("xmp", "comment", "photoshop", "XML:com.adobe.xmp", "parameters", "Description", "Author")
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def has_gps(image: Image.Image) -> bool:
    try:
        return bool(image.getexif().get_ifd(GPS_IFD)) or b"GPSLatitude" in _xmp(image)
    except (SyntaxError, ValueError, TypeError, KeyError, OSError):
        return False


def has_metadata(image: Image.Image) -> bool:
    """Whether it tells anything beside its pixels, colours and orientation."""
    try:
        exif = image.getexif()
        tells = any(tag in exif for tag in TELLING_TAGS) or bool(exif.get_ifd(EXIF_IFD))
    except (SyntaxError, ValueError, TypeError, KeyError, OSError):
        tells = True
    return tells or any(image.info.get(name) for name in TELLING_INFO)


def metadata_strip(work: Work, orientations: dict[str, int]) -> None:
    """Rewrites the images (path: orientation), losslessly. Raises Refused where that cannot be."""

    def stripped(path: str) -> bytes:
        file = work.open(path)
        data = metadata_removed(file.read_bytes(), orientations[path])
        return data if data is not None else _as_png(file, path)

    work.rewrite_all((path, stripped(path)) for path in orientations)


def _as_png(file: Path, path: str) -> bytes:
    """Its pixels, upright, under the name that captions know."""
    with Image.open(file) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode not in PNG_MODES:
            hint = "Save it as PNG or JPEG, then upload again."
            raise Refused(f"{path}: metadata cannot be taken out of its {upright.mode} pixels", hint=hint)
        profile, transparency = image.info.get("icc_profile"), image.info.get("transparency")
        upright.info = {} if transparency is None else {"transparency": transparency}
        buffer = BytesIO()
        upright.save(buffer, "PNG", icc_profile=profile)
        return buffer.getvalue()


def _xmp(image: Image.Image) -> bytes:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return xmp if isinstance(xmp, bytes) else str(xmp).encode(errors="replace")
