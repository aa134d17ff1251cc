"""Files of rows: JSON lines, JSON, CSV and plain text, read one row at a time. Parquet has `formats.parquet`."""

import codecs
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from formats.csv_tables import csv_rows, csv_separator_of
from formats.images import METADATA
from formats.rows import DatasetError, Row, json_value

ROW_ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
PLAIN_ENDING = ".txt"
NUMBERED = (".json", ".parquet")
"""Their rows are named by their number, others by their line."""
LINES = "Save it as JSON lines (.jsonl), then upload again."
PIECE_BYTES = 1 << 20
WIDE = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


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
    if isinstance(value, ValueError):
        return "levels" not in str(value)  # nested too deeply: a fault of the line
    return isinstance(value, list) and any(isinstance(item, dict) for item in value)


def _ending(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def text_read(file: Path, name: str, *, max_bytes: int | None = None) -> str:
    """The whole text, without its byte order mark. Raises DatasetError, whose message begins with `name`."""
    if max_bytes is not None and (size := file.stat().st_size) > max_bytes:
        raise DatasetError(f"{name} has {size} bytes; at most {max_bytes} are read")
    raw = file.read_bytes()
    _wide_check(raw, name)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(name, error.start, raw[error.start]) from None


def utf8_check(file: Path, name: str) -> None:
    """Of a file of any size. Raises DatasetError with the offset of the first byte that is not UTF-8."""
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
