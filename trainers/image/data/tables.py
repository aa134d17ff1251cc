"""Rows of metadata.jsonl and metadata.csv as images with captions."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from formats.rows import CSV_START, csv_separator, json_value, value_fault
from trainers.contract.errors import TrainerError
from trainers.image.data.folder import inside
from trainers.image.data.image_rows import Columns, Faults, ImageRow, bad_dataset, refuse

Row = Mapping[str, Any]


def table_images(path: Path, columns: Columns, faults: Faults | None = None) -> list[ImageRow]:
    """One image a row; file names count from the table's own folder."""
    table = _jsonl(path) if path.suffix == ".jsonl" else _csv(path)
    there = list(dict.fromkeys(name for _, row in table for name in row))
    image_column = "file_name" if columns.image == "image" and "image" not in there else columns.image
    if table:
        columns_check(columns._replace(image=image_column), there, path.name)
    columns = columns._replace(image=image_column)
    found = (_image_or_fault(path, row, line, columns, faults) for line, row in table)
    return [image for image in found if image]


def columns_check(columns: Columns, there: list[str], table: str) -> None:
    """TrainerError BAD_DATASET names the parameter, what it says, and the columns that are there."""
    for parameter, column in zip(("image_column", "caption_column", "mask_column"), columns, strict=True):
        if column is not None and column not in there:
            raise bad_dataset(
                f"{parameter}={column!r} is not a column of {table}; it has {', '.join(map(repr, there))}"
            )


def text_read(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_dataset(f"{path.name} is not UTF-8: {error}") from error
    if fault := value_fault(text):
        raise bad_dataset(f"{path.name}: {fault}")
    return text


def _image_or_fault(table: Path, row: Row, line: int, columns: Columns, faults: Faults | None) -> ImageRow | None:
    try:
        return _image(table, row, line, columns)
    except TrainerError as error:
        refuse(error.reason.message, faults)
        return None


def _image(table: Path, row: Row, line: int, columns: Columns) -> ImageRow:
    place = f"{table.name} row {line}"

    def file(column: str) -> Path:
        return inside(table.parent, _text(row, column, place), place)

    return ImageRow(
        source=file(columns.image),
        caption=_text(row, columns.caption, place).strip() if columns.caption else "",
        where=f"{row[columns.image]} ({place})",
        mask=file(columns.mask) if columns.mask else None,
    )


def _text(row: Row, column: str, place: str) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise bad_dataset(f"{place}: expected text in {column!r}, got {kind}")
    return value


def _jsonl(path: Path) -> list[tuple[int, Row]]:
    """(line number from 1, row) of each line that is not blank."""
    rows: list[tuple[int, Row]] = []
    for line, text in enumerate(text_read(path).split("\n"), start=1):
        if not text.strip():
            continue
        row = json_value(text)
        if isinstance(row, ValueError):
            raise bad_dataset(f"{path.name} line {line}: {row}")
        if not isinstance(row, dict):
            raise bad_dataset(f"{path.name} line {line}: expected an object, got {text[:80]}")
        rows.append((line, row))
    return rows


def _csv(path: Path) -> list[tuple[int, Row]]:
    text = text_read(path)
    try:
        separator = csv_separator(text[:CSV_START])
        rows = list(csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    except csv.Error as error:
        raise bad_dataset(f"{path.name} is not CSV: {error}") from error
    except ValueError as error:
        raise bad_dataset(f"{path.name}: {error}") from error
    for line, row in enumerate(rows, start=1):
        if None in row:
            raise bad_dataset(f"{path.name} row {line} has more cells than the header")
    return list(enumerate(rows, start=1))
