"""Files on the worker's disk: atomic writes, removal, free space."""

import errno
import json
import shutil
import uuid
from pathlib import Path
from typing import Any

from foundation.atomic import bytes_write

CHUNK = 1 << 20
ROOM_BYTES = 1 << 16


def write_bytes(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replaces `path` by `data`; a reader sees the old bytes or the new ones, also after a power cut."""
    bytes_write(path, data, mode=mode, parents=False)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> None:
    write_bytes(path, json.dumps(value).encode(), mode=mode)


def disk_is_full(error: OSError) -> bool:
    """Whether `error` means that the disk or the user's quota is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def room_left(folder: Path) -> bool:
    """Whether a small file could still be written in `folder`."""
    return shutil.disk_usage(folder).free >= ROOM_BYTES


def remove_tree(folder: Path) -> None:
    """Removes `folder` and all below it, read-only or of any depth; a missing one is fine, a link goes by itself.

    Folders are moved up before they are emptied, since a hostile tree is deeper than any path or stack.
    """
    if folder.is_symlink() or not folder.is_dir():
        folder.unlink(missing_ok=True)
        return
    folder.chmod(0o700)
    prefix, moved = f".removing-{uuid.uuid4().hex}", 0
    while folders := [path for path in folder.iterdir() if _is_folder(path)]:
        for emptied in folders:
            emptied.chmod(0o700)
            for path in emptied.iterdir():
                if _is_folder(path):
                    path.chmod(0o700)
                    moved += 1
                    path.rename(folder / f"{prefix}-{moved}")
                else:
                    path.unlink()
            emptied.rmdir()
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
