"""Captions of a dataset, as a trainer looks for them: metadata.jsonl, else metadata.csv, else a.txt or a.caption."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from api.catalog.pictures import PICTURE_ENDINGS
from api.catalog.refusal import refused_if_wrong
from api.errors import Problem

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".caption")
PATH_COLUMNS = ("file_name", "image")
"""A job may name another column for the pictures; then only the trainer can check the paths."""
MAX_NAMED = 10
"""So many faults are listed, and the rest counted."""
Row = tuple[int, Any]
"""Line number from 1, and the row; a line that cannot be read has a ValueError in its place."""


def captions_check(files: Sequence[Mapping[str, Any]], read: Callable[[str], bytes]) -> dict[str, Any]:
    """{num_captions, warnings}. Raises Problem with the faulty lines of the metadata, at most MAX_NAMED."""
    paths = {str(file["path"]) for file in files}
    pictures = {path for path in paths if PurePosixPath(path).suffix.lower() in PICTURE_ENDINGS}
    metadata: str | None = next((name for name in METADATA if name in paths), None)
    unread = sorted(path for path in paths if PurePosixPath(path).name in METADATA and path != metadata)
    warnings = _warn("not read, since only one metadata file at the top is", unread)
    if metadata is None:
        return _sidecars(paths, pictures, warnings)
    rows = refused_if_wrong(lambda: _rows_of(metadata, read))
    if not any(isinstance(row, ValueError) or row.keys() & set(PATH_COLUMNS) for _, row in rows):
        said = f"{metadata} has no column {' or '.join(PATH_COLUMNS)}; jobs must set image_column"
        return {"num_captions": len(rows), "warnings": [*warnings, said]}
    lines: dict[str, int] = {}
    faults = [
        f"{metadata} line {number}: {fault}" for number, row in rows if (fault := _fault(number, row, paths, lines))
    ]
    if faults:
        _refuse(faults)
    return {
        "num_captions": len(lines),
        "warnings": [*warnings, *_warn("no row in the metadata", pictures - set(lines))],
    }


def _sidecars(paths: set[str], pictures: set[str], warnings: list[str]) -> dict[str, Any]:
    captions = {_stem(path) for path in paths if PurePosixPath(path).suffix in SIDECARS}
    without = {path for path in pictures if _stem(path) not in captions}
    alone = captions - {_stem(path) for path in pictures}
    more = [*_warn("no caption beside it", without), *_warn("a caption without a picture", alone)]
    return {"num_captions": len(pictures) - len(without), "warnings": [*warnings, *more]}


def _fault(number: int, row: Any, paths: set[str], lines: dict[str, int]) -> str | None:
    """What is wrong with one row, or None; then its picture is added to `lines`."""
    if isinstance(row, ValueError):
        return str(row)
    given = next((row[column] for column in PATH_COLUMNS if column in row), None)
    if not isinstance(given, str):
        return f"expected the picture's path under file_name, got {given!r:.100}"
    if given.startswith("/") or ".." in PurePosixPath(given).parts:
        return f"{given!r} leaves the dataset"
    path = str(PurePosixPath(given))
    if path not in paths:
        return f"{given!r} is not among the files"
    if path in lines:
        return f"{given!r} has a row already, in line {lines[path]}; expected one per picture"
    lines[path] = number
    return None


def _rows_of(path: str, read: Callable[[str], bytes]) -> list[Row]:
    return list(_rows(path, _text(path, read(path))))


def _text(path: str, raw: bytes) -> str:
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} is UTF-16; expected UTF-8")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: byte {error.start}") from None


def _rows(path: str, text: str) -> Iterator[Row]:
    if path.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise ValueError(f"{path} is not CSV: {error}") from None
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, _object(line)


def _object(line: str) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return ValueError("not JSON; expected one object per line")
    return row if isinstance(row, dict) else ValueError(f"expected a JSON object, got {type(row).__name__}")


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _warn(what: str, found: set[str] | list[str]) -> list[str]:
    if not found:
        return []
    names = sorted(found)
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return [f"{what}: {', '.join(names[:MAX_NAMED])}{more}"]


def _refuse(faults: Sequence[str]) -> None:
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    shown = [*faults[:MAX_NAMED], *([f"and {len(faults) - MAX_NAMED} more"] if len(faults) > MAX_NAMED else [])]
    hint = "Mend the lines that are named, then upload again."
    raise Problem("bad_metadata", f"{faults[0]}{more}.", hint=hint, fields={"files": shown})
