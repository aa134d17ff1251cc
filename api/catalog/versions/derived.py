"""A dataset's next version out of what the storage holds already: other captions, further images. Nothing is sent."""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from api.catalog.checking.text import SMALL_BYTES
from api.catalog.models import Dataset, DatasetVersion, Upload
from api.catalog.versions.caption_files import captions_write
from api.catalog.versions.create import AnyVersion, same_content, version_create
from api.catalog.versions.filelist import files_check
from api.errors import Problem
from api.storage import storage
from formats.images import IMAGE_ENDINGS
from trainers.contract.spec import folder_digest

File = dict[str, Any]


class ImageRow(NamedTuple):
    """An image that joins a dataset."""

    path: str
    """In the dataset."""
    key: str
    """Where the storage holds it."""
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
    """The version of `base`'s files and `images` with these `captions` (text by path), and whether it is new.

    `source` is kept as details["source"]. Raises Problem that names the file at fault.
    """
    kept: Sequence[File] = base.files if base else ()
    keys = {file["path"]: f"{base.key}/{file['path']}" for file in kept} if base else {}
    keys |= {image.path: image.key for image in images}
    _known_check(captions, keys)
    written = captions_write([*keys], lambda path: _small(keys[path], path), captions, column)
    files = {file["path"]: file for file in kept}
    files |= {one.path: {"path": one.path, "size": one.size, "sha256": one.sha256} for one in images}
    files |= {path: _entry(path, content) for path, content in written.items()}
    listed = files_check([*files.values()])
    digest = folder_digest(listed)
    if found := same_content(record, digest):
        return found, False
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


def _known_check(captions: Mapping[str, str], keys: Mapping[str, str]) -> None:
    for path in captions:
        if path not in keys or not path.lower().endswith(IMAGE_ENDINGS):
            said = f"{path!r:.200} is none of the dataset's images"
            raise Problem("invalid", f"captions: {said}.", fields={f"captions.{path[:200]}": [said]})


def _small(key: str, path: str) -> bytes:
    try:
        size = storage().stat(key).size
    except FileNotFoundError:
        raise _gone(path) from None
    if size > SMALL_BYTES:
        said = f"{path} has {size} bytes; captions are edited in at most {SMALL_BYTES}"
        raise Problem("too_large", f"{said}.", fields={"captions": [said]})
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
