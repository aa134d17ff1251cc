"""Removes metadata (EXIF, GPS, XMP, comments) from JPEG, PNG and WebP files without re-encoding their pixels."""

import struct
import zlib

ICC = b"ICC_PROFILE\0"
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_METADATA = (b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"tIME")
WEBP_EXIF, WEBP_XMP = 0x08, 0x04
SOS, EOI, COM = 0xDA, 0xD9, 0xFE
APP0, APP1, APP2, APP14, APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF


def metadata_removed(data: bytes, orientation: int) -> bytes | None:
    """Returns the file with no metadata except its colour profile and `orientation` (EXIF; 1 = upright).

    Returns None for other formats and truncated files.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data, orientation)
        if data.startswith(PNG_START):
            return _png(data, orientation)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data, orientation)
    except (IndexError, struct.error):
        return None
    return None


def _tiff(orientation: int) -> bytes:
    """A minimal EXIF block with the orientation as its only tag."""
    return b"MM\0*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def _jpeg(data: bytes, orientation: int) -> bytes:
    """Keeps JFIF, the colour profile and Adobe's colour transform; drops everything after the first image."""
    pieces, at = [data[:2]], 2
    if orientation != 1:
        exif = b"Exif\0\0" + _tiff(orientation)
        pieces.append(b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif)
    while True:
        while data[at] == 0xFF and data[at + 1] == 0xFF:
            at += 1
        marker = data[at + 1]
        if data[at] != 0xFF:
            raise IndexError(at)
        if marker == EOI:
            return b"".join([*pieces, b"\xff\xd9"])
        end = at + 2 + struct.unpack_from(">H", data, at + 2)[0]
        if marker == SOS:
            end = _scan_end(data, end)
        if not _is_metadata(marker, data[at + 4 : at + 4 + len(ICC)]):
            pieces.append(data[at:end])
        at = end


def _is_metadata(marker: int, start: bytes) -> bool:
    is_standard = marker in (APP0, APP14) or (marker == APP2 and start == ICC)
    return marker == COM or (APP0 <= marker <= APP15 and not is_standard)


def _scan_end(data: bytes, at: int) -> int:
    """The end of the entropy-coded data at `at`: the next marker that is neither a restart nor a stuffed byte."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0:
            raise IndexError(len(data))
        if data[at + 1] != 0 and not 0xD0 <= data[at + 1] <= 0xD7:
            return at
        at += 2


def _png(data: bytes, orientation: int) -> bytes:
    pieces, at = [PNG_START], len(PNG_START)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if len(chunk) < 12 + length:
            raise IndexError(at)
        at += len(chunk)
        if kind not in PNG_METADATA:
            pieces.append(chunk)
        if kind == b"IHDR" and orientation != 1:
            body = b"eXIf" + _tiff(orientation)
            pieces.append(struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body)))
        if kind == b"IEND":
            return b"".join(pieces)


def _webp(data: bytes, orientation: int) -> bytes:
    pieces, at, end = list[bytes](), 12, 8 + struct.unpack_from("<I", data, 4)[0]
    while at < end:
        kind, length = struct.unpack_from("<4sI", data, at)
        chunk = data[at : at + 8 + length + length % 2]
        if len(chunk) < 8 + length:
            raise IndexError(at)
        at += 8 + length + length % 2
        if kind == b"VP8X":
            flags = chunk[8] & ~(WEBP_EXIF | WEBP_XMP) | (WEBP_EXIF if orientation != 1 else 0)
            chunk = chunk[:8] + bytes([flags]) + chunk[9:]
        if kind not in (b"EXIF", b"XMP "):
            pieces.append(chunk)
    if orientation != 1:
        body = _tiff(orientation)
        pieces.append(b"EXIF" + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
    content = b"WEBP" + b"".join(pieces)
    return b"RIFF" + struct.pack("<I", len(content)) + content
