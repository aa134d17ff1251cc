"""Captions of a dataset's pictures written into its files: metadata.jsonl, else metadata.csv, else one .txt each.

The files were checked when they were uploaded; still their size is limited and nothing in them is trusted.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from api.catalog.checking.captions import METADATA, SIDECARS
from api.catalog.checking.metadata import CAPTION_COLUMNS, PATH_COLUMNS
from api.errors import Problem

Read = Callable[[str], bytes]
Row = dict[str, Any]


def captions_write(paths: Sequence[str], read: Read, captions: Mapping[str, str], column: str = "") -> dict[str, bytes]:
    """The files with the new `captions` (text by picture), by path; pictures without a row get one.

    `read` gives the content of one of `paths`; `column`: of the metadata, if not the one that captions are in.
    """
    name = next((name for name in METADATA if name in paths), None)
    if name is None and column:
        raise _refusal("column", f"the dataset has no metadata with columns, so no column {column!r:.100}")
    if name is None:
        return dict(_sidecar(paths, picture, text) for picture, text in captions.items())
    rows, columns = (_csv_read if name.endswith(".csv") else _jsonl_read)(read(name))
    caption = column or next((known for known in CAPTION_COLUMNS if known in columns), CAPTION_COLUMNS[0])
    picture = next((known for known in PATH_COLUMNS if known in columns), PATH_COLUMNS[0])
    _rows_edit(rows, captions, picture, caption)
    write = _csv_write if name.endswith(".csv") else _jsonl_write
    return {name: write(rows, [*dict.fromkeys((*columns, picture, caption))])}


def _rows_edit(rows: list[Row], captions: Mapping[str, str], picture: str, caption: str) -> None:
    left = dict(captions)
    for row in rows:
        path = str(PurePosixPath(str(row.get(picture))))
        if path in captions:
            row[caption] = captions[path]
            left.pop(path, None)
    rows += [{picture: path, caption: text} for path, text in left.items()]


def _sidecar(paths: Sequence[str], picture: str, text: str) -> tuple[str, bytes]:
    beside = [str(PurePosixPath(picture).with_suffix(suffix)) for suffix in SIDECARS]
    return next((path for path in beside if path in paths), beside[0]), text.encode()


def _jsonl_read(raw: bytes) -> tuple[list[Row], list[str]]:
    rows = [json.loads(line) for line in raw.decode("utf-8-sig").split("\n") if line.strip()]
    return rows, [*dict.fromkeys(name for row in rows for name in row)]


def _jsonl_write(rows: list[Row], _: Sequence[str]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv_read(raw: bytes) -> tuple[list[Row], list[str]]:
    reader = csv.DictReader(io.StringIO(raw.decode("utf-8-sig"), newline=""), strict=True)
    return [*reader], [*(reader.fieldnames or ())]


def _csv_write(rows: list[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _refusal(field: str, said: str) -> Problem:
    return Problem("invalid", f"{field}: {said}.", fields={field: [said]})
