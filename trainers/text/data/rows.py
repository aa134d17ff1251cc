"""Rows of a dataset's folder: JSON lines, JSON, CSV, Parquet and text files, each row with the place it came from."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow.parquet import ParquetFile

from formats.rows import CSV_START, csv_separator, json_value, value_fault
from formats.splits import splits_of
from trainers.contract.errors import ReasonCode, TrainerError

MAX_CELL = 16 << 20
BATCH_ROWS = 256
NAMED_FAULTS = 5
PLAIN = ".txt"

csv.field_size_limit(MAX_CELL)


class Row(NamedTuple):
    where: str
    """File and line (or number of the row), for people."""
    columns: dict[str, Any]


ChooseSplit = Callable[[Sequence[str]], str]
"""As `Params.split_of`."""


def rows_read(folder: Path, split_of: ChooseSplit | None = None) -> list[Row]:
    """The rows below `folder` of the split that `split_of` chooses, or all; files in the order of their names.

    TrainerError BAD_DATASET: nothing to read, or faulty rows; the first few are named with what was expected.
    """
    splits = row_files(folder)
    split = _split(splits, split_of) if split_of else ""
    paths = [path for name, files in splits.items() for path in files if split in ("", name)]
    rows, faults = [], []
    for path in paths:
        for row in file_rows(path, path.relative_to(folder).as_posix()):
            if fault := _fault(row.columns):
                faults.append(f"{row.where}: {fault}")
            else:
                rows.append(row)
    if faults:
        more = f" and {len(faults) - NAMED_FAULTS} more" if len(faults) > NAMED_FAULTS else ""
        raise bad_rows("; ".join(faults[:NAMED_FAULTS]) + more)
    if not rows:
        raise bad_rows(f"expected rows, but {', '.join(path.name for path in paths[:NAMED_FAULTS])} hold none")
    return rows


def row_files(folder: Path) -> dict[str, list[Path]]:
    """The files with rows by split; all under "" where their names say none. Plain text counts where there is nothing
    else: beside rows it is a licence or a note, as the check at upload has it."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in READERS and path.is_file())
    if not paths:
        raise bad_rows(f"expected rows in files ending in {', '.join(READERS)}, found none of them")
    paths = [path for path in paths if path.suffix.lower() != PLAIN] or paths
    splits = splits_of(path.relative_to(folder).as_posix() for path in paths)
    return {split: [folder / name for name in names] for split, names in splits.items()} or {"": paths}


def split_counts(folder: Path, split_of: ChooseSplit) -> dict[str, Any]:
    """{split, splits: rows by split} of a dataset that has splits, for manifests and previews; {} of another."""
    splits = row_files(folder)
    if "" in splits:
        return {}
    counts = {split: sum(1 for path in files for _ in file_rows(path, path.name)) for split, files in splits.items()}
    return {"split": _split(splits, split_of), "splits": counts}


def file_rows(path: Path, name: str) -> Iterator[Row]:
    """The rows of one file; a row that cannot be read has a ValueError in the place of its columns."""
    return READERS[path.suffix.lower()](path, name)


def bad_rows(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def _split(splits: dict[str, list[Path]], split_of: ChooseSplit) -> str:
    try:
        return split_of([split for split in splits if split])
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, str(error)) from None


def _jsonl(path: Path, name: str) -> Iterator[Row]:
    lines = _text(path, name).split("\n")
    filled = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if filled and filled[0][1].startswith("["):
        raise bad_rows(f"{name}: this is a JSON array; expected one object per line, or the ending .json")
    for number, line in filled:
        yield Row(f"{name} line {number}", json_value(line))


def _json_array(path: Path, name: str) -> Iterator[Row]:
    rows = json_value(_text(path, name))
    if isinstance(rows, ValueError):
        raise bad_rows(f"{name}: {rows}")
    if not isinstance(rows, list):
        raise bad_rows(f"{name}: expected an array of objects, got {type(rows).__name__}")
    return (Row(f"{name} row {number}", row) for number, row in enumerate(rows, start=1))


def _csv(path: Path, name: str) -> Iterator[Row]:
    """All cells are text."""
    text = _text(path, name)
    try:
        separator = csv_separator(text[:CSV_START])
    except ValueError as error:
        raise bad_rows(f"{name}: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = next(reader, [])
        if not header or len(set(header)) != len(header) or not all(column.strip() for column in header):
            raise bad_rows(f"{name} line 1: expected a different name for each column, got {header!r:.200}")
        if fault := value_fault(header):
            raise bad_rows(f"{name} line 1: {fault}")
        for cells in reader:
            if cells:
                wrong = ValueError(f"expected {len(header)} cells, got {len(cells)}")
                columns = dict(zip(header, cells, strict=True)) if len(cells) == len(header) else wrong
                yield Row(f"{name} line {reader.line_num}", columns)  # type: ignore[arg-type]  # told apart by _fault
    except csv.Error as error:
        raise bad_rows(f"{name} line {reader.line_num} is not CSV: {error}") from error


def _parquet(path: Path, name: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in ParquetFile(path).iter_batches(BATCH_ROWS, use_threads=False):
            for columns in batch.to_pylist():
                number += 1
                yield Row(f"{name} row {number}", columns)
    except (pyarrow.ArrowException, OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise bad_rows(f"{name} after row {number} cannot be read as Parquet: {error}") from error


def _plain(path: Path, name: str) -> Iterator[Row]:
    """Documents of a text file: paragraphs, which empty lines part."""
    start, lines = 1, [*_text(path, name).splitlines(), ""]
    paragraph: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            start = start if paragraph else number
            paragraph.append(line)
        elif paragraph:
            yield Row(f"{name} line {start}", {"text": "\n".join(paragraph)})
            paragraph = []


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    ".jsonl": _jsonl,
    ".json": _json_array,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _plain,
}


def _text(path: Path, name: str) -> str:
    content = path.read_bytes()
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise bad_rows(f"{name}: expected UTF-8, got UTF-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_rows(f"{name}: expected UTF-8, got byte 0x{content[error.start]:02x} at {error.start}") from error


def _fault(columns: Any) -> str:
    if isinstance(columns, ValueError):
        return str(columns)
    if not isinstance(columns, dict):
        return f"expected an object, got {type(columns).__name__} {columns!r:.60}"
    if fault := value_fault(columns):
        return fault
    if any(isinstance(value, float) and not math.isfinite(value) for value in columns.values()):
        return "has a number that is not finite"
    return ""
