"""A folder of images with captions: what lies in it, and the rows of metadata.jsonl and metadata.csv.

Captions stand in metadata files, else in Parquet files, else in a .txt or .caption file beside each image.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from formats.images import IMAGE_ENDINGS, METADATA, SIDECARS
from formats.row_files import csv_file_rows, jsonl_rows, text_read
from formats.rows import DatasetError, Row, row_fault, value_fault, value_named
from formats.splits import splits_of

IMAGE, FILE_NAME = "image", "file_name"
PATH_COLUMNS = (IMAGE, FILE_NAME)
"""Columns of the images where no other is named; the first that is there counts."""
CAPTION_COLUMNS = ("text", "caption", "prompt")
"""The first that is there counts where no other is named."""


class ImageFolder(NamedTuple):
    tables: list[str]
    """All metadata files, or all Parquet files; none: captions lie beside the images."""
    images: list[str]
    splits: dict[str, list[str]]
    """Tables, or images without tables, by split; {} where the names of folders and tables name none."""

    @property
    def split_counts(self) -> dict[str, int]:
        """Images of each split, or Parquet files that hold them."""
        by_folder = splits_of(self.images, by_folder_only=True)
        return {split: len(by_folder.get(split, paths)) for split, paths in self.splits.items()}


def image_folder(paths: Iterable[str]) -> ImageFolder:
    """`paths`: of all files, from the folder. Metadata at the top wins over that of subfolders, and has no splits;
    metadata wins over Parquet."""
    listed = sorted((path for path in paths if not _is_hidden(path)), key=PurePosixPath)
    images = image_paths(listed)
    tables = metadata_files(listed)
    if tables and tables[0] in METADATA:
        return ImageFolder(tables, images, {})
    tables = tables or [path for path in listed if PurePosixPath(path).suffix.lower() == ".parquet"]
    return ImageFolder(tables, images, splits_of(tables or images, by_folder_only=not tables))


def metadata_files(paths: Iterable[str]) -> list[str]:
    """Those that are read: the first at the top, else all in subfolders, where each may be of another split."""
    listed = sorted(path for path in paths if PurePosixPath(path).name in METADATA and not _is_hidden(path))
    top = next((name for name in METADATA if name in listed), None)
    return [top] if top else listed


def image_paths(paths: Iterable[str]) -> list[str]:
    """The images among `paths`, without hidden files and those of hidden folders."""
    return [path for path in paths if PurePosixPath(path).suffix.lower() in IMAGE_ENDINGS and not _is_hidden(path)]


def sidecars_of(image: str) -> list[str]:
    """Paths of the files that may hold the caption of `image`; the first that is there counts."""
    return [str(PurePosixPath(image).with_suffix(ending)) for ending in SIDECARS]


def caption_read(file: Path, name: str, *, max_bytes: int | None = None) -> str:
    """Of a file beside an image. Raises DatasetError, whose message begins with `name`."""
    text = text_read(file, name, max_bytes=max_bytes)
    if fault := value_fault(text):
        raise DatasetError(f"{name}: {fault}")
    return text.strip()


def metadata_rows(file: Path, name: str) -> Iterator[Row]:
    """Rows by line; a row that no method could use has a ValueError in its place. Raises DatasetError."""
    rows = csv_file_rows(file, name, lenient=True) if name.endswith(".csv") else jsonl_rows(file, name)
    for number, row in rows:
        fault = row_fault(row)
        yield number, ValueError(fault) if fault else row


def column_names(rows: Iterable[Row]) -> list[str]:
    """Of all rows that could be read, in the order in which they come."""
    return list(dict.fromkeys(name for _, row in rows if isinstance(row, dict) for name in row))


def image_column(column: str, names: Collection[str]) -> str:
    """The column that `column` means among `names`: IMAGE, which is what is asked for where nothing is, also matches
    the usual file_name."""
    return FILE_NAME if column == IMAGE and IMAGE not in names else column


def cell_text(row: dict[str, Any], column: str) -> str:
    """Raises ValueError where there is no text."""
    value = row.get(column)
    if not isinstance(value, str):
        raise ValueError(f"expected text in {column!r}, got {value_named(value)}")
    return value


def path_below(folder: str, name: str) -> str:
    """The path of the file that a table in `folder` calls `name`. Raises ValueError for one that leaves the folder."""
    relative = PurePosixPath(name.replace("\\", "/"))
    parts = relative.parts
    if not parts or "\0" in name or relative.is_absolute() or ".." in parts or ":" in parts[0]:
        raise ValueError(f"expected a file of this folder, got {name!r:.200}")
    return str(folder / relative)


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)
