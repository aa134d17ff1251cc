"""What a dataset's files must be before they become a version. Cheap: only small files and headers are read."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from api.catalog.captions import captions_check
from api.catalog.pictures import PICTURE_ENDINGS, picture_size
from api.catalog.refusal import refuse, refused_if_wrong
from storage import Storage

Files = Sequence[Mapping[str, Any]]
HEAD_BYTES = 1 << 18
"""So much of a picture is read to find its size."""
SMALL_BYTES = 32 << 20
"""Largest metadata or configuration file that is read whole."""
MAX_PIXELS = 100_000_000


def dataset_check(storage: Storage, key: str, files: Files) -> dict[str, Any]:
    """{num_pictures, num_captions, warnings}. Raises Problem that names the file at fault."""
    pictures = [file for file in files if ending(file) in PICTURE_ENDINGS]
    if not pictures:
        endings = " ".join(PICTURE_ENDINGS)
        refuse(f"expected at least one picture ({endings}), got {len(files)} files and none of them")
    for file in pictures:
        _picture_check(storage, key, file)
    captions = captions_check(files, lambda path: small_read(storage, key, path))
    return {"num_pictures": len(pictures), **captions}


def small_read(storage: Storage, key: str, path: str) -> bytes:
    """A whole small file. Raises ValueError when it is too large to be one."""
    size = storage.stat(f"{key}/{path}").size
    if size > SMALL_BYTES:
        raise ValueError(f"{path} has {size} bytes; at most {SMALL_BYTES} are read")
    return b"".join(storage.open_range(f"{key}/{path}"))


def ending(file: Mapping[str, Any]) -> str:
    return PurePosixPath(file["path"]).suffix.lower()


def _picture_check(storage: Storage, key: str, file: Mapping[str, Any]) -> None:
    path, size = file["path"], file["size"]
    head = b"".join(storage.open_range(f"{key}/{path}", 0, HEAD_BYTES))
    width, height = refused_if_wrong(lambda: picture_size(head, path, whole=size <= HEAD_BYTES))
    if width * height > MAX_PIXELS:
        said = f"{path} is {width} x {height} = {width * height} pixels; at most {MAX_PIXELS} are accepted"
        refuse(said, hint="Make it smaller, then upload again.")
