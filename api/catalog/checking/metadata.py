"""metadata.jsonl and metadata.csv: one row per image, each fault with its line."""

from pathlib import PurePosixPath
from typing import Any

from api.catalog.checking.report import Refused, dataset_refusals
from api.catalog.checking.text import SMALL_BYTES
from api.catalog.checking.work import Work
from formats.image_tables import (
    CAPTION_COLUMNS,
    IMAGE,
    PATH_COLUMNS,
    cell_text,
    column_names,
    image_column,
    metadata_rows,
    path_below,
)


def metadata_read(work: Work, path: str, paths: set[str]) -> tuple[int, dict[str, str], set[str]]:
    """How many rows, captions by image (none where the columns have other names), and all files that rows name.

    Raises Refused by line.
    """
    file = work.open(path)
    if (size := file.stat().st_size) > SMALL_BYTES:
        raise Refused(f"{path} has {size} bytes; at most {SMALL_BYTES} are read")
    with dataset_refusals():
        rows = list(metadata_rows(file, path))
    columns = column_names(rows)
    if rows and not set(columns) & set(PATH_COLUMNS) and not any(isinstance(row, ValueError) for _, row in rows):
        said = f"{path} has no column {' or '.join(PATH_COLUMNS)}; jobs must set image_column"
        work.notices.add("no column of images", said, file=path)
        return len(rows), {}, set()
    folder = str(PurePosixPath(path).parent)
    image_name = image_column(IMAGE, columns)
    caption_column = next((column for column in CAPTION_COLUMNS if column in columns), None)
    lines: dict[str, int] = {}
    texts: dict[str, str] = {}
    faults = []
    for number, row in rows:
        try:
            image = _image(row, image_name, folder, paths, lines)
            texts[image] = cell_text(row, caption_column) if caption_column else ""
            lines[image] = number
        except ValueError as error:
            faults.append(f"{path} line {number}: {error}")
    if faults:
        hint = "Mend the lines that are named, then upload again. One row per image."
        raise Refused(*faults, code="bad_metadata", hint=hint)
    cells = {
        str(PurePosixPath(folder) / value)
        for _, row in rows
        for value in row.values()
        if isinstance(value, str) and value
    }
    return len(lines), texts, cells & paths


def _image(row: Any, column: str, folder: str, paths: set[str], lines: dict[str, int]) -> str:
    """The image that the row is of. Raises ValueError."""
    if isinstance(row, ValueError):
        raise row
    name = cell_text(row, column)
    path = path_below(folder, name)
    if path not in paths:
        raise ValueError(f"{name!r:.200} is not among the files")
    if path in lines:
        raise ValueError(f"{name!r:.200} has a row already, in line {lines[path]}; expected one per image")
    return path
