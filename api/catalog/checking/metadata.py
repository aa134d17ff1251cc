"""metadata.jsonl and metadata.csv: one row per image, each fault with its line."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from typing import Any

from api.catalog.checking.report import Refused
from api.catalog.checking.text import text_read
from api.catalog.checking.work import Work
from formats.rows import CSV_START, csv_separator, json_value, value_fault

METADATA = ("metadata.jsonl", "metadata.csv")
PATH_COLUMNS = ("file_name", "image")
"""A job may name another column for the images; then only the trainer can check the paths."""
CAPTION_COLUMNS = ("text", "caption", "prompt")
Row = tuple[int, Any]
"""Line number from 1, and the row; a line that cannot be read has a ValueError in its place."""


def metadata_files(paths: Iterable[str]) -> list[str]:
    """Those that a trainer reads: the first at the top, else all in subfolders, where each may be of another split."""
    found = sorted(path for path in paths if PurePosixPath(path).name in METADATA)
    top = next((name for name in METADATA if name in found), None)
    if top:
        return [top]
    return found


def metadata_read(work: Work, path: str, paths: set[str]) -> tuple[int, dict[str, str], set[str]]:
    """How many rows, captions by image (none where the columns have other names), and all files that rows name.

    Raises Refused by line.
    """
    rows = list(_rows(path, text_read(work, path)))
    columns = {column for _, row in rows if isinstance(row, dict) for column in row}
    if rows and not columns & set(PATH_COLUMNS) and not any(isinstance(row, ValueError) for _, row in rows):
        said = f"{path} has no column {' or '.join(PATH_COLUMNS)}; jobs must set image_column"
        work.notices.add("no column of images", said, file=path)
        return len(rows), {}, set()
    folder = PurePosixPath(path).parent
    caption_column = next((column for column in CAPTION_COLUMNS if column in columns), None)
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    faults = []
    for number, row in rows:
        try:
            image = _image(row, folder, paths, lines)
            texts[image] = _caption(row, caption_column)
            lines[image] = number
        except ValueError as error:
            faults.append(f"{path} line {number}: {error}")
    if faults:
        hint = "Mend the lines that are named, then upload again. One row per image."
        raise Refused(*faults, code="bad_metadata", hint=hint)
    cells = {str(folder / value) for _, row in rows for value in row.values() if isinstance(value, str) and value}
    return len(lines), texts, cells & paths


def _image(row: Any, folder: PurePosixPath, paths: set[str], lines: dict[str, int]) -> str:
    """The image that the row is of. Raises ValueError."""
    if isinstance(row, ValueError):
        raise row
    given = next((row[column] for column in PATH_COLUMNS if column in row), None)
    if not isinstance(given, str):
        raise ValueError(f"expected the image's path under file_name, got {given!r:.100}")
    if given.startswith("/") or ".." in PurePosixPath(given.replace("\\", "/")).parts:
        raise ValueError(f"{given!r:.200} leaves the dataset")
    path = str(folder / given)
    if path not in paths:
        raise ValueError(f"{given!r:.200} is not among the files")
    if path in lines:
        raise ValueError(f"{given!r:.200} has a row already, in line {lines[path]}; expected one per image")
    return path


def _caption(row: dict[str, Any], column: str | None) -> str:
    if column is None:
        return ""
    caption = row.get(column)
    if not isinstance(caption, str):
        raise ValueError(f"expected text under {column}, got {caption!r:.100}")
    return caption


def _rows(path: str, text: str) -> Iterator[Row]:
    if path.endswith(".csv"):
        try:
            separator = csv_separator(text[:CSV_START])
        except ValueError as error:
            raise Refused(f"{path}: {error}") from None
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        try:
            yield from ((reader.line_num, _cells(row)) for row in reader)
        except csv.Error as error:
            raise Refused(f"{path} is not CSV: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _object(line)


def _cells(row: dict[Any, Any]) -> Any:
    if None in row:
        return ValueError("has more cells than the header")
    fault = value_fault(row)
    return ValueError(fault) if fault else row


def _object(line: str) -> Any:
    row = json_value(line)
    if isinstance(row, ValueError):
        return row
    return row if isinstance(row, dict) else ValueError(f"expected a JSON object, got {type(row).__name__}")
