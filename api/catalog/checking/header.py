"""Kind and size of an image from its first bytes, without decoding it."""

import struct

from formats.datasets.images import IMAGE_NAMES, image_format

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
