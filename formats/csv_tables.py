"""CSV: the separator of its cells, its header, its rows. All cells are text."""

import csv
import io
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, TextIO

from formats.rows import DatasetError, Row, value_fault

SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
CSV_START = 1 << 16
"""Characters from the start of a CSV file that its separator is found in."""
MAX_CELL = 16 << 20
"""Characters."""
COMMAS = "Save it with commas between its cells, then upload again."

csv.field_size_limit(MAX_CELL)


def csv_rows(opened: TextIO, name: str, *, lenient: bool = False) -> Iterator[Row]:
    """Rows by the line that they end in. Raises DatasetError where the header or the quotes are wrong.

    `opened` was opened with newline="". A row of another length than the header has a ValueError in its place.
    `lenient`: as spreadsheets write tables: cells may lack at the end of a row, columns may have no name or share one.
    """
    separator = csv_separator_of(opened, name)
    reader = csv.reader(opened, delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if not lenient:
            _header_check(header, name)
        for cells in reader:
            if cells:
                yield reader.line_num, _columns(header, cells, lenient)
    except csv.Error as error:
        raise DatasetError(f"{name} line {reader.line_num} is not CSV: {error}") from None


def csv_separator_of(opened: TextIO, name: str) -> str:
    """By the start of the file, to which it goes back. Raises DatasetError."""
    try:
        return csv_separator(opened.read(CSV_START))
    except ValueError as error:
        raise DatasetError(f"{name}: {error}", hint=COMMAS) from None
    finally:
        opened.seek(0)


def csv_separator(start: str) -> str:
    """The separator of a CSV file whose text begins with `start` (CSV_START characters of it are enough).

    Raises ValueError that names the separator where the first rows do not agree on it.
    """
    if len(_first_cells(start, ",")) > 1:
        return ","
    others = [separator for separator in SEPARATORS[1:] if len(_first_cells(start, separator)) > 1]
    if not others:
        return ","
    names = " or ".join(SEPARATOR_NAMES[separator] for separator in others)
    if len(others) > 1 or not _rows_agree(start, others[0]):
        raise ValueError(f"its cells seem to be separated by {names}, but its rows do not agree; expected commas")
    return others[0]


def _header_check(header: list[str], name: str) -> None:
    if not header or len(set(header)) != len(header) or not all(column.strip() for column in header):
        raise DatasetError(f"{name} line 1: expected a different name for each column, got {header!r:.200}")
    if fault := value_fault(header):
        raise DatasetError(f"{name} line 1: {fault}")


def _columns(header: list[str], cells: list[str], lenient: bool) -> Any:
    if len(cells) > len(header) or (len(cells) < len(header) and not lenient):
        return ValueError(f"expected {len(header)} cells, got {len(cells)}")
    return dict(zip_longest(header, cells))


def _first_cells(start: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(start, newline=""), delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _rows_agree(start: str, separator: str) -> bool:
    """Whether all rows of `start` have as many cells as the first; the last may be cut off."""
    reader = csv.reader(io.StringIO(start, newline=""), delimiter=separator, strict=True)
    counts: list[int] = []
    try:
        for cells in reader:
            counts += [len(cells)] if cells else []
    except csv.Error:
        if len(start) < CSV_START:
            return False
    if len(start) >= CSV_START:
        counts = counts[:-1] or counts
    return len(set(counts)) == 1
