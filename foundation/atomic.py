"""Atomic writes of files and folders: a temporary name, fsync, rename."""

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any


def file_write(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary file beside `path`, then renames it. Creates the folder if it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(draft)
        sync(draft)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def bytes_write(path: Path, content: bytes, *, mode: int = 0o666, parents: bool = True) -> None:
    """Replaces the content of `path`; readers see the old bytes or the new ones, also after a power failure.

    mode: of a new file, less the umask. parents: whether to create missing folders, or raise FileNotFoundError.
    """
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # not matched by *.json
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    sync(path.parent)


def text_write(path: Path, text: str, *, mode: int = 0o666) -> None:
    """UTF-8. The folder must exist."""
    bytes_write(path, text.encode(), mode=mode, parents=False)


def json_write(path: Path, value: Any) -> None:
    bytes_write(path, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False).encode())


def folder_write(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary folder beside `path`, then replaces `path` by it."""
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
    """Sets the modification time, by which workers evict the least recently used files of a cache."""
    with suppress(OSError):  # another user's file, or one deleted meanwhile
        os.utime(path)


def sync(path: Path) -> None:
    """Makes the bytes of a file, or the names in a folder, durable."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
