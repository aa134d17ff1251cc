"""Writes captions into the files of a dataset: metadata.jsonl, else metadata.csv, else one .txt for each image.

The files were checked at upload; still their size is limited and their content is not trusted.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from api.errors import Problem
from formats.datasets.images import CAPTION_COLUMNS, PATH_COLUMNS, SIDECARS, metadata_files
from formats.datasets.rows import DatasetError, csv_header, csv_rows, json_value, row_fault, row_place

Read = Callable[[str], bytes]
Row = dict[str, Any]


def captions_write(paths: Sequence[str], read: Read, captions: Mapping[str, str], column: str = "") -> dict[str, bytes]:
    """Returns the changed files by path. Images without a row get one.

    `captions`: text by image. `read`: returns the content of one of `paths`. `column`: of the metadata, if not the
    default one.
    """
    tables = metadata_files(paths)
    if not tables and column:
        raise _problem("column", f"the dataset has no metadata with columns, so no column {column!r:.100}")
    if not tables:
        return dict(_sidecar(paths, image, text) for image, text in captions.items())
    remaining = dict(captions)
    return {table: _table_edit(table, read(table), remaining, column) for table in tables if remaining}


def _table_edit(table: str, raw: bytes, remaining: dict[str, str], column: str) -> bytes:
    """The table with the captions of images below its folder, which are removed from `remaining`."""
    rows, columns = (_csv_read if table.endswith(".csv") else _jsonl_read)(raw, table)
    caption = column or next((name for name in CAPTION_COLUMNS if name in columns), CAPTION_COLUMNS[0])
    image = next((name for name in PATH_COLUMNS if name in columns), PATH_COLUMNS[0])
    folder = PurePosixPath(table).parent
    for row in rows:
        path = str(folder / str(row.get(image)))
        if path in remaining:
            row[caption] = remaining.pop(path)
    for path in [path for path in remaining if PurePosixPath(path).is_relative_to(folder)]:
        rows.append({image: str(PurePosixPath(path).relative_to(folder)), caption: remaining.pop(path)})
    write = _csv_write if table.endswith(".csv") else _jsonl_write
    return write(rows, [*dict.fromkeys((*columns, image, caption))])


def _sidecar(paths: Sequence[str], image: str, text: str) -> tuple[str, bytes]:
    beside = [str(PurePosixPath(image).with_suffix(suffix)) for suffix in SIDECARS]
    return next((path for path in beside if path in paths), beside[0]), text.encode()


def _jsonl_read(raw: bytes, name: str) -> tuple[list[Row], list[str]]:
    lines = enumerate(raw.decode("utf-8-sig").split("\n"), start=1)
    rows = _rows(name, ((number, json_value(line)) for number, line in lines if line.strip()))
    return rows, [*dict.fromkeys(column for row in rows for column in row)]


def _jsonl_write(rows: list[Row], _: Sequence[str]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv_read(raw: bytes, name: str) -> tuple[list[Row], list[str]]:
    opened = io.StringIO(raw.decode("utf-8-sig"), newline="")
    header = csv_header(opened, name)
    return _rows(name, csv_rows(opened, name, lenient=True)), header


def _rows(name: str, numbered: Iterable[tuple[int, Any]]) -> list[Row]:
    """Raises DatasetError for a row that a check at upload would have refused."""
    rows = []
    for number, row in numbered:
        if fault := row_fault(row):
            raise DatasetError(f"{row_place(name, number)}: {fault}")
        rows.append(row)
    return rows


def _csv_write(rows: list[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _problem(field: str, message: str) -> Problem:
    return Problem("invalid", f"{field}: {message}.", fields={field: [message]})
