"""Validation of lists of files that clients send: [{path, size, sha256}]."""

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
"""Less than the 1024 of a storage key, which has a prefix."""
SHA256 = re.compile(r"[0-9a-f]{64}")


def files_check(files: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The list with only path, size and sha256, sorted by path. Raises Problem with fields as files.<i>.<name>."""
    if not 1 <= len(files) <= MAX_FILES:
        _reject("files", f"expected 1 to {MAX_FILES} files, got {len(files)}")
    for index, file in enumerate(files):
        _file_check(index, file)
    listed = sorted(({name: file[name] for name in ("path", "size", "sha256")} for file in files), key=_path)
    _clash_check([file["path"] for file in listed])
    return listed


def archive_check(files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem unless the list is one zip, as an upload to be unpacked must be."""
    if len(files) != 1 or not files[0]["path"].lower().endswith(".zip"):
        _reject("files", f"expected one .zip to unpack, got {len(files)} files, the first is {files[0]['path']!r:.200}")


def stripped_digest(files: Sequence[Mapping[str, Any]]) -> str:
    """Identifies an upload whose metadata is to be removed, so that it differs from one of the same files without."""
    return hashlib.sha256(f"{folder_digest([dict(file) for file in files])} without metadata".encode()).hexdigest()


def stored_check(storage: Storage, key: str, files: Sequence[Mapping[str, Any]]) -> None:
    """Raises Problem for the first file that is not stored below `key` with its size and SHA-256."""
    for file in files:
        try:
            stat = storage.stat(f"{key}/{file['path']}")
        except FileNotFoundError:
            hint = "PUT it to its link, then try again."
            _reject("files", f"{file['path']} was not sent", code="file_missing", hint=hint)
        if stat.size != file["size"]:
            _reject("files", f"{file['path']}: expected {file['size']} bytes, the storage has {stat.size}")
        if stat.sha256 != file["sha256"]:
            _reject("files", f"{file['path']}: expected SHA-256 {file['sha256']}, the storage has {stat.sha256}")


def _file_check(index: int, file: Mapping[str, Any]) -> None:
    where = f"files.{index}"
    if not isinstance(file, Mapping) or not {"path", "size", "sha256"} <= file.keys():
        _reject(where, f"expected an object with path, size and sha256, got {file!r:.100}")
    path, size, sha256 = file["path"], file["size"], file["sha256"]
    if not isinstance(path, str):
        _reject(f"{where}.path", f"expected text, got {path!r:.100}")
    try:
        key_check(path)
    except ValueError as error:
        _reject(f"{where}.path", str(error))
    try:
        line_check(path)
    except ValueError as error:
        _reject(f"{where}.path", f"{path!r:.200} {error}")
    if len(path.encode()) > MAX_PATH_BYTES:
        _reject(f"{where}.path", f"path is longer than {MAX_PATH_BYTES} bytes: {path[:80]!r}...")
    if type(size) is not int or not 0 <= size <= MAX_FILE_BYTES:
        _reject(f"{where}.size", f"expected 0 to {MAX_FILE_BYTES} bytes, got {size!r:.100} for {path!r}")
    if not isinstance(sha256, str) or not SHA256.fullmatch(sha256):
        _reject(f"{where}.sha256", f"expected 64 hexadecimal digits in lower case, got {sha256!r:.100} for {path!r}")


def _clash_check(paths: Sequence[str]) -> None:
    """Raises Problem for a duplicate path, or one that is a folder of another."""
    checked: set[str] = set()
    for path in paths:
        if path in checked:
            _reject("files", f"{path!r} is listed twice")
        checked.add(path)
    for path in paths:
        parts = path.split("/")
        for depth in range(1, len(parts)):
            if (folder := "/".join(parts[:depth])) in checked:
                _reject("files", f"{folder!r} is listed as a file and as the folder of {path!r}")


def _path(file: Mapping[str, Any]) -> str:
    return str(file["path"])


def _reject(field: str, message: str, *, code: str = "invalid", hint: str = "") -> None:
    raise Problem(code, f"{field}: {message}.", hint=hint, fields={field: [message]})
