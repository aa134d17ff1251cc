"""Rows of a dataset of images: where the bytes of an image are, its header, and its pixels as 8-bit RGB.

The bytes are in a file, or in a cell of a Parquet file.
"""

import hashlib
import math
import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import pillow_heif
from PIL import Image, ImageOps
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from formats.datasets.images import MAX_ASPECT, MAX_PIXELS, ORIENTATION, TURNED, depth_fault, frame_count, has_alpha
from formats.datasets.parquet import image_bytes
from foundation.digests import sha256_of
from trainers.contract.errors import ReasonCode, TrainerError

ROWS_AT_ONCE = 4
BUFFER_BYTES = 1 << 20


@dataclass(frozen=True)
class Cell:
    """Bytes, or a struct {bytes, path} as Hub datasets write it, in a Parquet file."""

    path: Path
    column: str
    row: int
    """From 0, through all row groups."""


Source = Path | Cell


def source_file(source: Source) -> Path | BytesIO:
    """A file that PIL can open. TrainerError BAD_DATASET: an empty cell."""
    return source if isinstance(source, Path) else BytesIO(_cell_bytes(source))


def source_sha256(source: Source) -> str:
    return sha256_of(source) if isinstance(source, Path) else hashlib.sha256(_cell_bytes(source)).hexdigest()


def source_name(source: Source) -> str:
    """For people: "cat.png", or "train.parquet row 3"."""
    return source.name if isinstance(source, Path) else f"{source.path.name} row {source.row + 1}"


def source_changed_at(source: Source) -> int:
    """When its file was last written, in nanoseconds: part of the key of cached images."""
    return (source if isinstance(source, Path) else source.path).stat().st_mtime_ns


def _cell_bytes(cell: Cell) -> bytes:
    value = _column(cell.path, cell.column, source_changed_at(cell)).value(cell.row)
    content = image_bytes(value)
    if content is None:
        raise TrainerError(
            ReasonCode.BAD_DATASET,
            f"{source_name(cell)}: expected the bytes of an image in {cell.column!r}, got nothing",
        )
    return content


@lru_cache(maxsize=8)
def _column(path: Path, column: str, _changed_at: int) -> "_Column":
    return _Column(path, column)


class _Column:
    """Reads one column forwards, a few rows at a time; reading an earlier row restarts at the row group's first row."""

    def __init__(self, path: Path, column: str) -> None:
        self._file = ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False)
        self._name = column
        metadata = self._file.metadata
        counts = [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]
        self._starts = [0, *accumulate(counts)]
        self._lock = Lock()
        self._group = -1
        self._first = 0
        self._rows: list[Any] = []
        self._batches: Any = iter(())

    def value(self, row: int) -> Any:
        with self._lock:
            group = bisect_right(self._starts, row) - 1
            if group != self._group or row < self._first:
                self._open(group)
            try:
                while row >= self._first + len(self._rows):
                    self._first += len(self._rows)
                    self._rows = next(self._batches).column(0).to_pylist()
            except (OSError, ArrowException) as error:
                self._group = -1
                raise TrainerError(
                    ReasonCode.BAD_DATASET, f"{self._name!r} cannot be read from Parquet at row {row + 1}: {error}"
                ) from error
            return self._rows[row - self._first]

    def _open(self, group: int) -> None:
        self._group, self._first, self._rows = group, self._starts[group], []
        self._batches = self._file.iter_batches(
            ROWS_AT_ONCE, row_groups=[group], columns=[self._name], use_threads=False
        )


MAX_NAMES = 5
"""Names that a message lists."""


@dataclass(frozen=True)
class ImageRow:
    source: Source
    caption: str
    """Unchanged from the dataset; may be empty if there is a trigger word."""
    where: str
    """For errors: "cat.png (metadata.jsonl row 3)"."""
    mask: Source | None = None
    """From the mask column."""
    repeats: int = 1
    """How often an epoch repeats it, from the name of its folder; multiplied by the `repeats` of its dataset."""

    @property
    def name(self) -> str:
        return source_name(self.source)

    def sha256(self) -> str:
        return source_sha256(self.source)


@dataclass(frozen=True)
class ImageRows:
    rows: list[ImageRow]
    warnings: list[str]
    """For people: what was changed or skipped."""


Faults = list[str]
"""A reader with such a list appends the fault of each bad row and skips the row, instead of refusing the dataset."""


class Columns(NamedTuple):
    """Names of the columns of a table of images."""

    image: str = "image"
    """Also matches the common file_name."""
    caption: str | None = "text"
    """None: captions are not read, and are empty."""
    mask: str | None = None
    """None: masks are not read."""


def bad_dataset(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def refuse(message: str, faults: Faults | None) -> None:
    """Raises BAD_DATASET, or appends the message to `faults`."""
    if faults is None:
        raise bad_dataset(message)
    faults.append(message)


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
