"""Files of rows: JSON lines, JSON, CSV and plain text, read one row at a time. Parquet has `formats.parquet`."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from formats.csv_tables import csv_rows, csv_separator_of
from formats.images import METADATA
from formats.rows import DatasetError, Row, json_value
from formats.text_files import utf8_check

ROW_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
PLAIN_ENDING = ".txt"
NUMBERED = (".json", ".parquet")
"""Their rows are named by their number, others by their line."""
LINES = "Save it as JSON lines (.jsonl), then upload again."


def row_files(paths: Iterable[str]) -> list[str]:
    """Those that hold the rows of a dataset of text. Plain text counts where there is nothing else: beside rows it is a
    licence or a note."""
    listed = [path for path in paths if PurePosixPath(path).name not in METADATA]
    tables = [path for path in listed if _ending(path) in ROW_ENDINGS]
    return tables or [path for path in listed if _ending(path) == PLAIN_ENDING]


def row_place(path: str, number: int) -> str:
    """ "a.jsonl line 3", "b.parquet row 3"."""
    return f"{path} {'row' if _ending(path) in NUMBERED else 'line'} {number}"


def text_rows(file: Path, name: str, *, max_line_bytes: int | None = None) -> Iterator[Row]:
    """Of any kind but Parquet. Raises DatasetError, whose message begins with `name`, for what is no row's fault."""
    if _ending(name) == ".jsonl":
        return jsonl_rows(file, name, max_line_bytes=max_line_bytes)
    return READERS[_ending(name)](file, name)


def jsonl_rows(file: Path, name: str, *, max_line_bytes: int | None = None) -> Iterator[Row]:
    """Blank lines are passed over. Raises DatasetError for what is one array, or a line that is too long."""
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
    """The elements of one array, by their numbers."""
    utf8_check(file, name)
    rows = json_value(file.read_text("utf-8-sig"))
    if isinstance(rows, ValueError):
        raise DatasetError(f"{name}: {rows}")
    if not isinstance(rows, list):
        raise DatasetError(f"{name}: expected an array of objects, got {type(rows).__name__}", hint=LINES)
    yield from enumerate(rows, start=1)


def csv_file_rows(file: Path, name: str, *, lenient: bool = False) -> Iterator[Row]:
    """As `csv_rows`."""
    utf8_check(file, name)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        yield from csv_rows(opened, name, lenient=lenient)


def csv_file_separator(file: Path, name: str) -> str:
    utf8_check(file, name)
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return csv_separator_of(opened, name)


def paragraph_rows(file: Path, name: str) -> Iterator[Row]:
    """Paragraphs, which empty lines part, as rows of one column `text`; each by the line that it starts in."""
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
    """The first line does not close its array, or holds objects: the file is one array, not lines of arrays."""
    value = json_value(text)
    return isinstance(value, ValueError) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()
