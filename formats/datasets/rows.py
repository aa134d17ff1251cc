"""Rows of a dataset of text: JSON lines, JSON, CSV and plain text, read one row at a time, and what a row may hold.

Parquet has `formats.datasets.parquet`. All cells of CSV are text.
"""

import codecs
import csv
import io
import math
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from foundation.strict_json import JsonError, json_read, text_fault

MAX_DEPTH = 32
"""Levels of nested lists and objects."""
ROW = "the row"
KINDS = {str: "text", bool: "yes or no", int: "number", float: "number", list: "list", dict: "object", bytes: "bytes"}
"""Names of types in messages."""
Row = tuple[int, Any]
"""(number of the line or row, from 1; row). An invalid row is replaced by a ValueError."""


class DatasetError(ValueError):
    """A dataset file cannot be read. The message names file and line; `hint` says how to fix it."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def json_value(text: str) -> Any:
    """The parsed value, or a ValueError: invalid syntax, too deep, duplicate key, forbidden character."""
    try:
        return json_read(text, ROW, max_depth=MAX_DEPTH)
    except JsonError as error:
        return ValueError(str(error).removeprefix(f"{ROW}: ").removeprefix(f"{ROW} is "))


def row_fault(row: Any) -> str:
    """Why the row is invalid for every method; "" if it is valid."""
    if isinstance(row, ValueError):
        return str(row)
    if not isinstance(row, dict):
        return f"expected an object, got {value_named(row)}"
    if fault := value_fault(row):
        return fault
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        return "has a number that is not finite"
    return ""


def value_fault(value: Any, where: str = "") -> str:
    """Message for text in `value` that cannot be tokenized or stored; "" if there is none."""
    if isinstance(value, str):
        fault = "" if value.isascii() and "\0" not in value else text_fault(value)
        return f"expected text, got {fault}{where}" if fault else ""
    if isinstance(value, dict):
        keys = (value_fault(key, " in a key") for key in value if isinstance(key, str))
        items = (value_fault(item, where or f" under {key!r:.100}") for key, item in value.items())
        return next((fault for faults in (keys, items) for fault in faults if fault), "")
    if isinstance(value, (list, tuple)):
        return next((fault for item in value if (fault := value_fault(item, where))), "")
    return ""


def value_kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)


def value_named(value: Any) -> str:
    """For an error: "number 3", "nothing"."""
    return "nothing" if value is None else f"{value_kind(value)} {value!r:.60}"


METADATA = ("metadata.jsonl", "metadata.csv")
"""Names of tables with a row for each image; no rows of text."""
ROW_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
PLAIN_ENDING = ".txt"
NUMBERED = (".json", ".parquet")
"""Rows of these files are referred to by number, others by line."""
LINES = "Save it as JSON lines (.jsonl), then upload again."
PIECE_BYTES = 1 << 20
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def row_files(paths: Iterable[str]) -> list[str]:
    """The files with rows of a dataset of text. Plain text counts only if there are no others: beside rows it is a
    licence or a note."""
    listed = [path for path in paths if PurePosixPath(path).name not in METADATA]
    tables = [path for path in listed if _ending(path) in ROW_ENDINGS]
    return tables or [path for path in listed if _ending(path) == PLAIN_ENDING]


def row_place(path: str, number: int) -> str:
    """ "a.jsonl line 3", "b.parquet row 3"."""
    return f"{path} {'row' if _ending(path) in NUMBERED else 'line'} {number}"


def text_rows(file: Path, name: str, *, max_line_bytes: int | None = None) -> Iterator[Row]:
    """Rows of any file but Parquet. Raises DatasetError for an invalid file; its message begins with `name`."""
    if _ending(name) == ".jsonl":
        return jsonl_rows(file, name, max_line_bytes=max_line_bytes)
    return READERS[_ending(name)](file, name)


def jsonl_rows(file: Path, name: str, *, max_line_bytes: int | None = None) -> Iterator[Row]:
    """Skips blank lines. Raises DatasetError for a JSON array or a line that is too long."""
    utf8_check(file, name)
    most = -1 if max_line_bytes is None else max_line_bytes + 1
    number, first = 0, True
    with file.open("rb") as opened:
        while line := opened.readline(most):
            number += 1
            if max_line_bytes is not None and len(line) > max_line_bytes:
                raise DatasetError(f"{name} line {number} has more than {max_line_bytes} bytes")
            text = line.decode().removeprefix("\ufeff").strip()
            if not text:
                continue
            if first and text.startswith("[") and _is_open(text):
                hint = "Name it .json, or save one object per line; then upload again."
                raise DatasetError(f"{name}: this is a JSON array; expected one object per line", hint=hint)
            first = False
            yield number, json_value(text)


def json_rows(file: Path, name: str) -> Iterator[Row]:
    """Elements of one array, numbered from 1."""
    utf8_check(file, name)
    rows = json_value(file.read_text("utf-8-sig"))
    if isinstance(rows, ValueError):
        raise DatasetError(f"{name}: {rows}")
    if not isinstance(rows, list):
        raise DatasetError(f"{name}: expected an array of objects, got {type(rows).__name__}", hint=LINES)
    yield from enumerate(rows, start=1)


def csv_file_rows(file: Path, name: str, *, lenient: bool = False) -> Iterator[Row]:
    """See `csv_rows`."""
    utf8_check(file, name)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        yield from csv_rows(opened, name, lenient=lenient)


def csv_file_separator(file: Path, name: str) -> str:
    utf8_check(file, name)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return csv_separator_of(opened, name)


def paragraph_rows(file: Path, name: str) -> Iterator[Row]:
    """Paragraphs (separated by empty lines) as rows of one column `text`, numbered by their first line."""
    utf8_check(file, name)
    number, paragraph = 0, list[str]()
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield number - len(paragraph), {"text": "".join(paragraph).rstrip("\n")}
                paragraph = []
    if paragraph:
        yield number - len(paragraph) + 1, {"text": "".join(paragraph).rstrip("\n")}


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": jsonl_rows,
    ".json": json_rows,
    ".csv": csv_file_rows,
    ".txt": paragraph_rows,
}


def _is_open(text: str) -> bool:
    """Whether the first line starts an array of the whole file: it is unclosed, or contains objects."""
    value = json_value(text)
    if isinstance(value, ValueError):
        return "levels" not in str(value)  # nested too deeply: a fault of the line
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def text_read(file: Path, name: str, *, max_bytes: int | None = None) -> str:
    """The text without its byte order mark. Raises DatasetError; its message begins with `name`."""
    if max_bytes is not None and (size := file.stat().st_size) > max_bytes:
        raise DatasetError(f"{name} has {size} bytes; at most {max_bytes} are read")
    raw = file.read_bytes()
    _wide_check(raw, name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error.start, raw[error.start]) from None


def utf8_check(file: Path, name: str) -> None:
    """Checks a file of any size. Raises DatasetError with the offset of the first invalid byte."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with file.open("rb") as opened:
        _wide_check(opened.read(4), name)
        opened.seek(0)
        while True:
            piece = opened.read(PIECE_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                raise _not_utf8(name, offset - waiting + error.start, error.object[error.start]) from None
            if not piece:
                return
            offset += len(piece)


def _wide_check(start: bytes, name: str) -> None:
    for mark, encoding in WIDE.items():
        if start.startswith(mark):
            raise DatasetError(f"{name} is {encoding}; expected UTF-8", hint="Save it as UTF-8, then upload again.")


def _not_utf8(name: str, offset: int, byte: int) -> DatasetError:
    hint = "Save it as UTF-8 (it may be Latin-1), then upload again."
    return DatasetError(f"{name} is not UTF-8: byte {offset} is 0x{byte:02x}", hint=hint)


SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
CSV_START = 1 << 16
"""Characters at the start of a CSV file from which the separator is detected."""
MAX_CELL = 16 << 20
"""Characters."""
COMMAS = "Save it with commas between its cells, then upload again."

csv.field_size_limit(MAX_CELL)


def csv_rows(opened: TextIO, name: str, *, lenient: bool = False) -> Iterator[Row]:
    """(line, row), where line is the last of the row. Raises DatasetError if the header or the quotes are invalid.

    `opened`: with newline="". A row with another number of cells than the header is replaced by a ValueError.
    `lenient`: as in spreadsheets, rows may be short, and columns unnamed or duplicate.
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


def csv_header(opened: TextIO, name: str) -> list[str]:
    """The first row; rewinds the file. Raises DatasetError."""
    header = next(csv.reader(opened, delimiter=csv_separator_of(opened, name)), [])
    opened.seek(0)
    return header


def csv_separator_of(opened: TextIO, name: str) -> str:
    """Detects the separator and rewinds the file. Raises DatasetError."""
    try:
        return csv_separator(opened.read(CSV_START))
    except ValueError as error:
        raise DatasetError(f"{name}: {error}", hint=COMMAS) from None
    finally:
        opened.seek(0)


def csv_separator(start: str) -> str:
    """The separator of a CSV file that begins with `start` (CSV_START characters are enough).

    Raises ValueError if rows disagree on the separator.
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
    """Whether all rows of `start` have the same number of cells; the last may be truncated."""
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
