"""Derives a dataset version from stored files: other captions, further images. Nothing is uploaded."""

import csv
import hashlib
import io
import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from api.catalog.checking.configs import SMALL_BYTES
from api.catalog.models import Dataset, DatasetVersion, Upload
from api.catalog.versions.create import AnyVersion, same_content, version_create
from api.catalog.versions.filelist import files_check
from api.errors import Problem
from api.storage import storage
from formats.datasets.images import CAPTION_COLUMNS, IMAGE_ENDINGS, PATH_COLUMNS, SIDECARS, metadata_files
from formats.datasets.rows import DatasetError, csv_header, csv_rows, json_value, row_fault, row_place
from trainers.contract.spec import folder_digest

File = dict[str, Any]


class ImageRow(NamedTuple):
    """An image to add to a dataset."""

    path: str
    """In the dataset."""
    key: str
    """In the storage."""
    size: int
    sha256: str


def dataset_derive(
    *,
    record: Dataset,
    base: DatasetVersion | None,
    images: Sequence[ImageRow] = (),
    captions: Mapping[str, str],
    column: str = "",
    source: Mapping[str, Any],
    by: str,
) -> tuple[AnyVersion, bool]:
    """Returns the version of `base`'s files and `images` with `captions` (text by path), and whether it is new.

    `source` is stored as details["source"]. Raises Problem that names the invalid file.
    """
    existing: Sequence[File] = base.files if base else ()
    keys = {file["path"]: f"{base.key}/{file['path']}" for file in existing} if base else {}
    keys |= {image.path: image.key for image in images}
    _images_check(captions, keys)
    written = captions_write([*keys], lambda path: _small(keys[path], path), captions, column)
    files = {file["path"]: file for file in existing}
    files |= {image.path: {"path": image.path, "size": image.size, "sha256": image.sha256} for image in images}
    files |= {path: _entry(path, content) for path, content in written.items()}
    listed = files_check([*files.values()])
    digest = folder_digest(listed)
    if version := same_content(record, digest):
        return version, False
    upload = Upload.objects.create(
        kind=Upload.Kind.DATASETS,
        project_id=record.project_id,
        record_id=record.pk,
        files=listed,
        digest=digest,
    )
    for path in files:
        if path in written:
            _put(f"{upload.key}/{path}", written[path])
        else:
            _copy(keys[path], f"{upload.key}/{path}", path)
    return version_create(record=record, upload=upload, by=by, source=source)


def _images_check(captions: Mapping[str, str], keys: Mapping[str, str]) -> None:
    for path in captions:
        if path not in keys or not path.lower().endswith(IMAGE_ENDINGS):
            message = f"{path!r:.200} is none of the dataset's images"
            raise Problem("invalid", f"captions: {message}.", fields={f"captions.{path[:200]}": [message]})


def _small(key: str, path: str) -> bytes:
    try:
        size = storage().stat(key).size
    except FileNotFoundError:
        raise _gone(path) from None
    if size > SMALL_BYTES:
        message = f"{path} has {size} bytes; captions are edited in at most {SMALL_BYTES}"
        raise Problem("too_large", f"{message}.", fields={"captions": [message]})
    return b"".join(storage().open_range(key))


def _copy(key: str, target: str, path: str) -> None:
    try:
        storage().copy(key, target)
    except FileNotFoundError:
        raise _gone(path) from None


def _gone(path: str) -> Problem:
    return Problem("file_missing", f"{path} is no longer in the storage.", status=409, fields={"files": [path]})


def _entry(path: str, content: bytes) -> File:
    return {"path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _put(key: str, content: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        storage().put_file(key, Path(file.name))


Read = Callable[[str], bytes]
Row = dict[str, Any]


def captions_write(paths: Sequence[str], read: Read, captions: Mapping[str, str], column: str = "") -> dict[str, bytes]:
    """Returns the changed files by path. Images without a row get one.

    `captions`: text by image. `read`: returns the content of one of `paths`. `column`: of the metadata, if not the
    default one.
    """
    tables = metadata_files(paths)
    if not tables and column:
        raise _problem("column", f"the dataset has no metadata with columns, so no column {column!r:.100}")
    if not tables:
        return dict(_sidecar(paths, image, text) for image, text in captions.items())
    remaining = dict(captions)
    return {table: _table_edit(table, read(table), remaining, column) for table in tables if remaining}


def _table_edit(table: str, raw: bytes, remaining: dict[str, str], column: str) -> bytes:
    """The table with the captions of images below its folder, which are removed from `remaining`."""
    rows, columns = (_csv_read if table.endswith(".csv") else _jsonl_read)(raw, table)
    caption = column or next((name for name in CAPTION_COLUMNS if name in columns), CAPTION_COLUMNS[0])
    image = next((name for name in PATH_COLUMNS if name in columns), PATH_COLUMNS[0])
    folder = PurePosixPath(table).parent
    for row in rows:
        path = str(folder / str(row.get(image)))
        if path in remaining:
            row[caption] = remaining.pop(path)
    for path in [path for path in remaining if PurePosixPath(path).is_relative_to(folder)]:
        rows.append({image: str(PurePosixPath(path).relative_to(folder)), caption: remaining.pop(path)})
    write = _csv_write if table.endswith(".csv") else _jsonl_write
    return write(rows, [*dict.fromkeys((*columns, image, caption))])


def _sidecar(paths: Sequence[str], image: str, text: str) -> tuple[str, bytes]:
    beside = [str(PurePosixPath(image).with_suffix(suffix)) for suffix in SIDECARS]
    return next((path for path in beside if path in paths), beside[0]), text.encode()


def _jsonl_read(raw: bytes, name: str) -> tuple[list[Row], list[str]]:
    lines = enumerate(raw.decode("utf-8-sig").split("\n"), start=1)
    rows = _rows(name, ((number, json_value(line)) for number, line in lines if line.strip()))
    return rows, [*dict.fromkeys(column for row in rows for column in row)]


def _jsonl_write(rows: list[Row], _: Sequence[str]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _csv_read(raw: bytes, name: str) -> tuple[list[Row], list[str]]:
    opened = io.StringIO(raw.decode("utf-8-sig"), newline="")
    header = csv_header(opened, name)
    return _rows(name, csv_rows(opened, name, lenient=True)), header


def _rows(name: str, numbered: Iterable[tuple[int, Any]]) -> list[Row]:
    """Raises DatasetError for a row that a check at upload would have refused."""
    rows = []
    for number, row in numbered:
        if fault := row_fault(row):
            raise DatasetError(f"{row_place(name, number)}: {fault}")
        rows.append(row)
    return rows


def _csv_write(rows: list[Row], columns: Sequence[str]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _problem(field: str, message: str) -> Problem:
    return Problem("invalid", f"{field}: {message}.", fields={field: [message]})
