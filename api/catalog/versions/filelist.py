"""Lists of files as a client sends them: [{path, size, sha256}]."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from api.errors import Problem
from foundation.plain_text import line_check
from storage import Storage, key_check
from trainers.contract.spec import folder_digest

MAX_FILES = 50_000
MAX_FILE_BYTES = 2**40
MAX_PATH_BYTES = 800
"""A storage key may have 1024; the prefix takes some."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def files_check(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The list with only path, size and sha256, sorted by path. Raises Problem with fields as files.<i>.<name>."""
    if not 1 <= len(files) <= MAX_FILES:
        _refuse("files", f"expected 1 to {MAX_FILES} files, got {len(files)}")
    for index, file in enumerate(files):
        _file_check(index, file)
    listed = sorted(({name: file[name] for name in ("path", "size", "sha256")} for file in files), key=_path)
    _clash_check([file["path"] for file in listed])
    return listed


def archive_check(files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem unless the list is one zip, as an upload to be unpacked must be."""
    if len(files) != 1 or not files[0]["path"].lower().endswith(".zip"):
        _refuse("files", f"expected one .zip to unpack, got {len(files)} files, the first is {files[0]['path']!r:.200}")


def stripped_digest(files: Sequence[Mapping[str, Any]]) -> str:
    """Stands for images whose metadata is still to be removed: they are not the version that holds them as sent."""
    return hashlib.sha256(f"{folder_digest([dict(file) for file in files])} without metadata".encode()).hexdigest()


def stored_check(storage: Storage, key: str, files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem with the first file that does not lie below `key` with its size and SHA-256."""
    for file in files:
        try:
            stat = storage.stat(f"{key}/{file['path']}")
        except FileNotFoundError:
            hint = "PUT it to its link, then try again."
            _refuse("files", f"{file['path']} was not sent", code="file_missing", hint=hint)
        if stat.size != file["size"]:
            _refuse("files", f"{file['path']}: expected {file['size']} bytes, the storage has {stat.size}")
        if stat.sha256 != file["sha256"]:
            _refuse("files", f"{file['path']}: expected SHA-256 {file['sha256']}, the storage has {stat.sha256}")


def _file_check(index: int, file: Mapping[str, Any]) -> None:
    where = f"files.{index}"
    if not isinstance(file, Mapping) or not {"path", "size", "sha256"} <= file.keys():
        _refuse(where, f"expected an object with path, size and sha256, got {file!r:.100}")
    path, size, sha256 = file["path"], file["size"], file["sha256"]
    if not isinstance(path, str):
        _refuse(f"{where}.path", f"expected text, got {path!r:.100}")
    try:
        key_check(path)
    except ValueError as error:
        _refuse(f"{where}.path", str(error))
    try:
        line_check(path)
    except ValueError as error:
        _refuse(f"{where}.path", f"{path!r:.200} {error}")
    if len(path.encode()) > MAX_PATH_BYTES:
        _refuse(f"{where}.path", f"path is longer than {MAX_PATH_BYTES} bytes: {path[:80]!r}...")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        _refuse(f"{where}.size", f"expected 0 to {MAX_FILE_BYTES} bytes, got {size!r:.100} for {path!r}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        _refuse(f"{where}.sha256", f"expected 64 hexadecimal digits in lower case, got {sha256!r:.100} for {path!r}")


def _clash_check(paths: Sequence[str]) -> None:
    """No path twice, and none that is a folder of another."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            _refuse("files", f"{path!r} is listed twice")
        seen.add(path)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in seen:
                _refuse("files", f"{folder!r} is listed as a file and as the folder of {path!r}")


def _path(file: Mapping[str, Any]) -> str:
    return str(file["path"])


def _refuse(field: str, said: str, *, code: str = "invalid", hint: str = "") -> None:
    raise Problem(code, f"{field}: {said}.", hint=hint, fields={field: [said]})
