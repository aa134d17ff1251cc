"""Image files of a dataset: their endings, their first bytes, and what a folder's name says."""

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

FORMAT_ENDINGS = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "GIF": (".gif",),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif"),
    "AVIF": (".avif",),
}
"""By Pillow's name of the format."""
IMAGE_ENDINGS = tuple(ending for endings in FORMAT_ENDINGS.values() for ending in endings)
IMAGE_NAMES = "PNG, JPEG, WebP, BMP, GIF, TIFF, HEIC or AVIF"
STARTS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"mif2", b"heif")
AVIF_BRANDS = (b"avif", b"avis")
SMALL_SIDE = 64
"""Pixels; an image whose shorter side is below shows next to nothing at the resolution of a training."""
MAX_PIXELS = 64_000_000
"""An image of more pixels is refused before it is decoded."""
MAX_ASPECT = 16
"""Longer side by shorter: no bucket that a trainer could use is that thin."""
ORIENTATION = 0x0112
"""Tag of EXIF: how the image is to be turned; 1 = upright."""
TURNED = (5, 6, 7, 8)
"""Orientations that swap width and height."""
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
MAX_GREY = 65535
"""Of 16 bits. Pillow's modes that begin with I may hold more, which nobody means."""
ONE_FRAME = ("MPO", "HEIF")
"""Formats in which phones write the image, then a preview of it or its depth: that counts as one frame."""
MAX_REPEATS = 1000
REPEATS = re.compile(r"([1-9]\d{0,3})_(?=\S)")
SIDECARS = (".txt", ".caption")
"""Endings of a file with the caption of the image beside it."""
METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of tables with a row for each image."""


def image_format(start: bytes) -> str | None:
    """Pillow's name of the format that a file with these first bytes (64 are enough) is of; None: of none of them."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return _boxed_format(start)
    return next((name for prefix, name in STARTS if start.startswith(prefix)), None)


def has_alpha(mode: str, info: Mapping[Any, Any]) -> bool:
    """`mode` and `info` as Pillow has them."""
    return mode in ALPHA_MODES or "transparency" in info


def depth_fault(mode: str, grey: tuple[float, float] | None = None) -> str:
    """Why the values of an image of Pillow's `mode` cannot become 8 bits; `grey`: smallest and largest value, of modes
    that begin with I."""
    if mode == "F":
        return "expected 8 or 16 bits a channel, got floating point"
    if grey and (grey[0] < 0 or grey[1] > MAX_GREY):
        return f"expected values of 16 bits, got {grey[0]}..{grey[1]}"
    return ""


def frame_count(image: Any) -> int:
    """More than 1: it moves, or has several pages. `image`: as Pillow opened it."""
    return 1 if image.format in ONE_FRAME else int(getattr(image, "n_frames", 1))


def folder_repeats(path: str) -> int:
    """How often an epoch sees the image `path` by the name of its folder, as kohya's scripts read it: 10 for
    "10_sks dog/a.png", 1 where the name says nothing."""
    return _repeats(PurePosixPath(path).parent.name) or 1


def repeats_by_folder(paths: Sequence[str]) -> dict[str, int]:
    """Folders of `paths` whose names say how often their images are seen, with that number."""
    folders = dict.fromkeys(PurePosixPath(path).parent for path in paths)
    return {str(folder): times for folder in folders if (times := _repeats(folder.name))}


def repeats_message(folder: str, times: int) -> str:
    often = "once" if times == 1 else f"{times} times"
    return f"an epoch sees each image in {folder!r} {often}, as the folder's name says"


def _repeats(name: str) -> int | None:
    match = REPEATS.match(name)
    count = int(match[1]) if match else 0
    return count if 1 <= count <= MAX_REPEATS else None


def _boxed_format(start: bytes) -> str | None:
    """Of an ISO base media file: by its major brand, else by the compatible ones."""
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(len(start), 64), 4))]
    if any(brand in AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in HEIF_BRANDS for brand in brands) else None
