"""Rows of text files, one at a time, with their line numbers from 1."""

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from api.catalog.checking.report import Refused
from api.catalog.checking.text import encoding_check, not_utf8
from formats.rows import CSV_START, csv_separator, json_value, value_fault

Row = tuple[int, Any]
"""Line (or number of the element), and the row; what cannot be read has a ValueError in its place."""
PIECE_BYTES = 1 << 20
MAX_LINE_BYTES = 64 << 20
MAX_JSON_BYTES = 64 << 20
"""A .json file is read whole; a .jsonl may have any size."""
MAX_CELL = 16 << 20
LINES = "Save it as JSON lines (.jsonl), then upload again."

csv.field_size_limit(MAX_CELL)


def utf8_check(file: Path, path: str) -> None:
    """Raises Refused with the offset of the first byte that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with file.open("rb") as opened:
        encoding_check(opened.read(4), path)
        opened.seek(0)
        while True:
            piece = opened.read(PIECE_BYTES)
            waiting = len(decoder.getstate()[0])
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as error:
                raise not_utf8(path, offset - waiting + error.start, error.object[error.start]) from None
            if not piece:
                return
            offset += len(piece)


def jsonl_rows(file: Path, path: str) -> Iterator[Row]:
    """Blank lines are ignored. Raises Refused for what is one array."""
    first = True
    with file.open("rb") as opened:
        number = 0
        while line := opened.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise Refused(f"{path} line {number} has more than {MAX_LINE_BYTES} bytes")
            text = line.decode().removeprefix("\ufeff").strip()
            if not text:
                continue
            if first and text.startswith("[") and _is_open(text):
                hint = "Name it .json, or save one object per line; then upload again."
                raise Refused(f"{path}: this is a JSON array; expected one object per line", hint=hint)
            first = False
            yield number, json_value(text)


def json_rows(file: Path, path: str) -> Iterator[Row]:
    """The elements of one array."""
    size = file.stat().st_size
    if size > MAX_JSON_BYTES:
        raise Refused(f"{path} has {size} bytes; a .json file may have {MAX_JSON_BYTES}", hint=LINES)
    rows = json_value(file.read_text("utf-8-sig"))
    if isinstance(rows, ValueError):
        raise Refused(f"{path}: {rows}")
    if not isinstance(rows, list):
        raise Refused(f"{path}: expected an array of objects, got {type(rows).__name__}", hint=LINES)
    yield from enumerate(rows, start=1)


def csv_rows(file: Path, path: str) -> Iterator[Row]:
    """Cells by column, all of them text: a cell that looks like a formula is text too."""
    separator = csv_separator_of(file, path)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        reader = csv.reader(opened, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            if not header or len(set(header)) != len(header) or not all(name.strip() for name in header):
                raise Refused(f"{path} line 1: expected a different name for each column, got {header!r:.200}")
            if fault := value_fault(header):
                raise Refused(f"{path} line 1: {fault}")
            for cells in reader:
                if cells:
                    yield reader.line_num, _cells(header, cells)
        except csv.Error as error:
            raise Refused(f"{path} line {reader.line_num} is not CSV: {error}") from None


def csv_separator_of(file: Path, path: str) -> str:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        try:
            return csv_separator(opened.read(CSV_START))
        except ValueError as error:
            hint = "Save it with commas between its cells, then upload again."
            raise Refused(f"{path}: {error}", hint=hint) from None


def paragraph_rows(file: Path) -> Iterator[Row]:
    """Paragraphs, which empty lines part, as rows of one column `text`; each by the line that it starts in."""
    paragraph: list[str] = []
    with file.open(encoding="utf-8-sig") as opened:
        for number, line in enumerate(opened, start=1):
            if line.strip():
                paragraph.append(line)
            elif paragraph:
                yield number - len(paragraph), {"text": "".join(paragraph).rstrip("\n")}
                paragraph = []
    if paragraph:
        yield number - len(paragraph) + 1, {"text": "".join(paragraph).rstrip("\n")}


def _is_open(text: str) -> bool:
    """The first line does not close its array, or holds objects: the file is one array, not lines of arrays."""
    value = json_value(text)
    return isinstance(value, ValueError) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _cells(header: list[str], cells: list[str]) -> Any:
    if len(cells) != len(header):
        return ValueError(f"expected {len(header)} cells, got {len(cells)}")
    return dict(zip(header, cells, strict=True))
