"""Folders of images: the formats of their files, what a folder's name means, and where their captions are.

Captions are in metadata.jsonl, metadata.csv or Parquet, else in a text file beside each image.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from formats.datasets.rows import (
    METADATA,
    DatasetError,
    Row,
    csv_file_rows,
    jsonl_rows,
    row_fault,
    text_read,
    value_fault,
    value_named,
)
from formats.datasets.splits import splits_of

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
"""Pixels. An image with a shorter side has too little detail to train on."""
MAX_PIXELS = 64_000_000
"""Larger images are refused before they are decoded."""
MAX_ASPECT = 16
"""Longer side divided by shorter; more does not fit any bucket."""
ORIENTATION = 0x0112
"""EXIF tag; 1 = upright."""
TURNED = (5, 6, 7, 8)
"""Orientations that swap width and height."""
ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")
MAX_GREY = 65535
"""Largest 16-bit value; Pillow's modes that begin with I can hold more."""
ONE_FRAME = ("MPO", "HEIF")
"""Formats in which phones store a preview or a depth map behind the image; these count as one frame."""
MAX_REPEATS = 1000
REPEATS = re.compile(r"([1-9]\d{0,3})_(?=\S)")
SIDECARS = (".txt", ".caption")
"""Endings of caption files, which have the name of their image."""


def image_format(start: bytes) -> str | None:
    """Pillow's name for the format, from the first bytes of a file (64 are enough); None if unknown."""
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        return _boxed_format(start)
    return next((name for prefix, name in STARTS if start.startswith(prefix)), None)


def has_alpha(mode: str, info: Mapping[Any, Any]) -> bool:
    """`mode` and `info` as Pillow has them."""
    return mode in ALPHA_MODES or "transparency" in info


def depth_fault(mode: str, grey: tuple[float, float] | None = None) -> str:
    """Why an image of Pillow's `mode` cannot be converted to 8 bits; "" if it can. `grey`: its smallest and largest
    value, for modes that begin with I."""
    if mode == "F":
        return "expected 8 or 16 bits a channel, got floating point"
    if grey and (grey[0] < 0 or grey[1] > MAX_GREY):
        return f"expected values of 16 bits, got {grey[0]}..{grey[1]}"
    return ""


def frame_count(image: Any) -> int:
    """More than 1 for animations and files of several pages. `image`: opened by Pillow."""
    return 1 if image.format in ONE_FRAME else int(getattr(image, "n_frames", 1))


def folder_repeats(path: str) -> int:
    """Repeats of the image `path` per epoch from the name of its folder, as in kohya's scripts: 10 for
    "10_sks dog/a.png", 1 without a number."""
    return _repeats(PurePosixPath(path).parent.name) or 1


def repeats_by_folder(paths: Sequence[str]) -> dict[str, int]:
    """Repeats by folder, for folders whose names have them."""
    folders = dict.fromkeys(PurePosixPath(path).parent for path in paths)
    return {str(folder): times for folder in folders if (times := _repeats(folder.name))}


def repeats_message(folder: str, times: int) -> str:
    often = "once" if times == 1 else f"{times} times"
    return f"an epoch sees each image in {folder!r} {often}, from the folder's name"


def _repeats(name: str) -> int | None:
    match = REPEATS.match(name)
    count = int(match[1]) if match else 0
    return count if 1 <= count <= MAX_REPEATS else None


def _boxed_format(start: bytes) -> str | None:
    """Format of an ISO base media file, from its major or compatible brands."""
    brands = [start[8:12], *(start[at : at + 4] for at in range(16, min(len(start), 64), 4))]
    if any(brand in AVIF_BRANDS for brand in brands):
        return "AVIF"
    return "HEIF" if any(brand in HEIF_BRANDS for brand in brands) else None


IMAGE, FILE_NAME = "image", "file_name"
PATH_COLUMNS = (IMAGE, FILE_NAME)
"""Default columns of the images; the first that exists is used."""
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""Default columns of the captions; the first that exists is used."""


class ImageFolder(NamedTuple):
    tables: list[str]
    """All metadata files, or all Parquet files; empty if captions are beside the images."""
    images: list[str]
    splits: dict[str, list[str]]
    """Tables (or images, if there are no tables) by split; {} if no name is a split."""

    @property
    def split_counts(self) -> dict[str, int]:
        """Number of images of each split, or of Parquet files of images."""
        by_folder = splits_of(self.images, by_folder_only=True)
        return {split: len(by_folder.get(split, paths)) for split, paths in self.splits.items()}


def image_folder(paths: Iterable[str], is_table: Callable[[str], bool]) -> ImageFolder:
    """`paths`: of all files, from the folder. Metadata at the top wins over that of subfolders, and has no splits;
    metadata wins over Parquet. `is_table`: whether a Parquet file beside images is a table of them; else it is ignored.
    """
    listed = sorted((path for path in paths if not _is_hidden(path)), key=PurePosixPath)
    images = image_paths(listed)
    tables = metadata_files(listed)
    if tables and tables[0] in METADATA:
        return ImageFolder(tables, images, {})
    packed = [path for path in listed if PurePosixPath(path).suffix.lower() == ".parquet"]
    tables = tables or [path for path in packed if not images or is_table(path)]
    return ImageFolder(tables, images, splits_of(tables or images, by_folder_only=not tables))


def metadata_files(paths: Iterable[str]) -> list[str]:
    """The metadata files that are read: one at the top, else all in subfolders, which may be splits."""
    listed = sorted(path for path in paths if PurePosixPath(path).name in METADATA and not _is_hidden(path))
    top = next((name for name in METADATA if name in listed), None)
    return [top] if top else listed


def image_paths(paths: Iterable[str]) -> list[str]:
    """The images among `paths`; hidden files and folders are skipped."""
    return [path for path in paths if PurePosixPath(path).suffix.lower() in IMAGE_ENDINGS and not _is_hidden(path)]


def sidecars_of(image: str) -> list[str]:
    """Paths where the caption of `image` may be; the first that exists is used."""
    return [str(PurePosixPath(image).with_suffix(ending)) for ending in SIDECARS]


def caption_read(file: Path, name: str, *, max_bytes: int | None = None) -> str:
    """Caption in a file beside an image. Raises DatasetError; its message begins with `name`."""
    text = text_read(file, name, max_bytes=max_bytes)
    if fault := value_fault(text):
        raise DatasetError(f"{name}: {fault}")
    return text.strip()


def metadata_rows(file: Path, name: str) -> Iterator[Row]:
    """(line, row) pairs; an invalid row is replaced by a ValueError. Raises DatasetError if the file is unreadable."""
    rows = csv_file_rows(file, name, lenient=True) if name.endswith(".csv") else jsonl_rows(file, name)
    for number, row in rows:
        fault = row_fault(row)
        yield number, ValueError(fault) if fault else row


def column_names(rows: Iterable[Row]) -> list[str]:
    """Columns of all valid rows, in order of appearance."""
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))


def image_column(column: str, names: Collection[str]) -> str:
    """Resolves `column` among `names`: the default IMAGE also matches file_name."""
    return FILE_NAME if column == IMAGE and IMAGE not in names else column


def cell_text(row: dict[str, Any], column: str) -> str:
    """Raises ValueError if the cell is not text."""
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"expected text in {column!r}, got {value_named(value)}")
    return value


def path_below(folder: str, name: str) -> str:
    """Path of `name` in a table of `folder`. Raises ValueError if it is outside the folder."""
    relative = PurePosixPath(name.replace("\\", "/"))
    parts = relative.parts
    if not parts or "\0" in name or relative.is_absolute() or ".." in parts or ":" in parts[0]:
        raise ValueError(f"expected a file of this folder, got {name!r:.200}")
    return str(folder / relative)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
