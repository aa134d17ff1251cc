"""Reads a folder of pictures with captions: metadata.jsonl, metadata.csv, or a .txt/.caption beside each picture."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainers.atomic import sha256_of
from trainers.errors import ReasonCode, TrainerError

METADATA = ("metadata.jsonl", "metadata.csv")
SIDECARS = (".txt", ".caption")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
NAMED = 5
"""How many offenders an error names."""


@dataclass(frozen=True)
class Picture:
    """One row of the dataset."""

    path: Path
    caption: str
    """As written; may be empty where a trigger word stands in."""
    where: str
    """For errors: "cat.png (metadata.jsonl row 3)"."""

    def sha256(self) -> str:
        return sha256_of(self.path)


@dataclass(frozen=True)
class Pictures:
    rows: list[Picture]
    warnings: list[str]


def pictures_read(folder: Path, *, image_column: str, caption_column: str, trigger_word: str) -> Pictures:
    """All pictures of `folder` with their captions, in the order of the metadata, else by name.

    TrainerError BAD_DATASET names the column, file or row that is missing. A caption that is empty is refused where
    no trigger word stands in for it.
    """
    metadata = next((folder / name for name in METADATA if (folder / name).is_file()), None)
    if metadata:
        found = _from_metadata(folder, metadata, image_column, caption_column)
    else:
        found = _from_sidecars(folder, trigger_word)
    if not found.rows:
        raise bad_dataset(f"expected pictures ({', '.join(SUFFIXES)}) or metadata.jsonl, found none")
    _refuse_missing_files(found.rows)
    _refuse_empty_captions(found.rows, trigger_word)
    return found


def bad_dataset(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_DATASET, message)


def _from_metadata(folder: Path, metadata: Path, image_column: str, caption_column: str) -> Pictures:
    table = _jsonl(metadata) if metadata.suffix == ".jsonl" else _csv(metadata)
    columns = list(dict.fromkeys(name for _, row in table for name in row))
    usual = "file_name" if image_column == "image" and "image" not in columns else image_column
    for parameter, column in (("image_column", usual), ("caption_column", caption_column)):
        if table and column not in columns:
            raise bad_dataset(
                f"{parameter}={column!r} is not a column of {metadata.name}; it has {', '.join(map(repr, columns))}"
            )
    rows = [
        Picture(
            path=_inside(folder, _text(row, usual, line, metadata), line, metadata),
            caption=_text(row, caption_column, line, metadata).strip(),
            where=f"{row[usual]} ({metadata.name} row {line})",
        )
        for line, row in table
    ]
    named = {row.path for row in rows}
    unused = [path.name for path in _picture_files(folder) if path not in named]
    warning = f"{len(unused)} pictures are not in {metadata.name} and are not used: {_first(unused)}"
    return Pictures(rows, [warning] if unused else [])


def _jsonl(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """(line number from 1, row) of each line that is not blank."""
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for line, text in enumerate(_read_text(path).splitlines(), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except ValueError as error:
            raise bad_dataset(f"{path.name} line {line} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise bad_dataset(f"{path.name} line {line}: expected an object, got {text[:80]}")
        rows.append((line, row))
    return rows


def _csv(path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    try:
        rows = list(csv.DictReader(_read_text(path).splitlines(keepends=True), strict=True))
    except csv.Error as error:
        raise bad_dataset(f"{path.name} is not CSV: {error}") from error
    for line, row in enumerate(rows, start=1):
        if None in row:
            raise bad_dataset(f"{path.name} row {line} has more cells than the header")
    return list(enumerate(rows, start=1))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise bad_dataset(f"{path.name} is not UTF-8: {error}") from error


def _text(row: Mapping[str, Any], column: str, line: int, metadata: Path) -> str:
    value = row.get(column)
    if not isinstance(value, str):
        kind = "nothing" if value is None else f"a {type(value).__name__}"
        raise bad_dataset(f"{metadata.name} row {line}: expected text in {column!r}, got {kind}")
    return value


def _inside(folder: Path, name: str, line: int, metadata: Path) -> Path:
    """`folder / name`; a name that would leave the folder is refused. Links inside it are the worker's own."""
    relative = PurePosixPath(name.replace("\\", "/"))
    if not name or "\0" in name or relative.is_absolute() or ".." in relative.parts or ":" in relative.parts[0]:
        raise bad_dataset(f"{metadata.name} row {line}: expected a file of this folder, got {name!r}")
    return folder / relative


def _from_sidecars(folder: Path, trigger_word: str) -> Pictures:
    files = _picture_files(folder)
    captions = {path: _sidecar(path) for path in files}
    missing = [path.relative_to(folder).as_posix() for path in files if captions[path] is None]
    warnings = []
    if missing and len(missing) == len(files) and trigger_word:
        warnings = [f"no picture has a caption; each is trained with the trigger word {trigger_word!r} alone"]
    elif missing:
        raise bad_dataset(
            f"{len(missing)} of {len(files)} pictures have no caption ({' or '.join(SIDECARS)} beside them, or "
            f"metadata.jsonl): {_first(missing)}"
        )
    return Pictures([Picture(path, captions[path] or "", path.name) for path in files], warnings)


def _sidecar(path: Path) -> str | None:
    found = next((path.with_suffix(s) for s in SIDECARS if path.with_suffix(s).is_file()), None)
    return _read_text(found).strip() if found else None


def _picture_files(folder: Path) -> list[Path]:
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return [path for path in files if path.suffix.lower() in SUFFIXES and path.is_file() and path.name[0] != "."]


def _refuse_missing_files(rows: Sequence[Picture]) -> None:
    missing = [row.where for row in rows if not row.path.is_file()]
    if missing:
        raise bad_dataset(f"{len(missing)} of {len(rows)} pictures are not in the dataset: {_first(missing)}")


def _refuse_empty_captions(rows: Sequence[Picture], trigger_word: str) -> None:
    empty = [row.where for row in rows if not row.caption]
    if empty and not trigger_word:
        raise bad_dataset(
            f"{len(empty)} of {len(rows)} captions are empty: {_first(empty)}; write them, or set trigger_word"
        )


def _first(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
