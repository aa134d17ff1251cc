"""Files that are whole or not there: a temporary name, fsync, rename."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_write(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary file beside `path`, then renames it. The folder is made where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(draft)
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def bytes_write(path: Path, content: bytes) -> None:
    def write(draft: Path) -> None:
        draft.write_bytes(content)

    file_write(path, write)


def json_write(path: Path, value: Any) -> None:
    bytes_write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())


def folder_write(path: Path, write: Callable[[Path], None]) -> None:
    """Lets `write` fill a temporary folder beside `path`, then puts it in the place of what may lie there."""
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    old = path.with_name(f".{os.getpid()}.old.{path.name}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        sync(draft)
        if path.exists():
            path.rename(old)
        draft.rename(path)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    sync(path.parent)


def file_mark_used(path: Path) -> None:
    """Sets the time by which a worker bounds its cache: the files that were used longest ago go first."""
    with suppress(OSError):  # another user's file, or one deleted meanwhile
        os.utime(path)


def sync(path: Path) -> None:
    """Forces a file's bytes, or a folder's names, onto the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_list(folder: Path) -> list[dict[str, Any]]:
    """`path` (relative, with /), `size` in bytes and `sha256` of every file below `folder`, sorted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [
        {"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size, "sha256": sha256_of(path)}
        for path in files
    ]
