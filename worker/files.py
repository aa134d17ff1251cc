"""Files that are whole or not there: temporary name, fsync, rename."""

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

CHUNK = 1 << 20
ROOM_BYTES = 1 << 16


def write_whole(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data`; a reader sees the old bytes or the new ones, also after a power cut."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    write_whole(path, json.dumps(value).encode(), mode=mode)


def disk_is_full(error: OSError) -> bool:
    """Whether `error` says that there is no room left, on the disk or for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def room_left(folder: Path) -> bool:
    """Whether a small file could still be written in `folder`."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def remove_tree(folder: Path) -> None:
    """Removes `folder` and all below it, also where folders are read-only; a missing one is fine."""
    if not folder.exists():
        return
    folder.chmod(0o755)
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            child = Path(parent, name)
            if not child.is_symlink():
                child.chmod(0o755)
    shutil.rmtree(folder)
