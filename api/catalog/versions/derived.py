"""Derives a dataset version from stored files: other captions, further images. Nothing is uploaded."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from api.catalog.checking.configs import SMALL_BYTES
from api.catalog.models import Dataset, DatasetVersion, Upload
from api.catalog.versions.caption_files import captions_write
from api.catalog.versions.create import AnyVersion, same_content, version_create
from api.catalog.versions.filelist import files_check
from api.errors import Problem
from api.storage import storage
from formats.datasets.images import IMAGE_ENDINGS
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
