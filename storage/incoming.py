"""Files that are received: hashed on the way, durable before they are visible, deleted unless committed."""

import hashlib
import os
from pathlib import Path
from typing import Self

from storage.base import DigestMismatchError, TooLargeError, WrongSizeError

Mark = list[int]
"""Changes whenever the content of a file does: size, modification time, inode."""


class Incoming:
    """A temporary file that becomes `target`. `label`: its name in errors; `size`, `sha256`: as announced."""

    def __init__(
        self, temporary: Path, target: Path, *, label: str, size: int | None = None, sha256: str | None = None
    ) -> None:
        self._temporary, self._target = temporary, target
        self._label, self._size, self._sha256 = label, size, sha256
        self._hash, self._count = hashlib.sha256(), 0

    def __enter__(self) -> Self:
        self._file = self._temporary.open("xb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @property
    def mark(self) -> Mark:
        return file_mark(os.fstat(self._file.fileno()))

    def write(self, piece: bytes) -> None:
        """Raises TooLargeError as soon as there is more than announced."""
        self._count += len(piece)
        if self._size is not None and self._count > self._size:
            raise TooLargeError(f"expected {self._size} bytes for {self._label}, got more")
        self._hash.update(piece)
        self._file.write(piece)

    def commit(self) -> None:
        """Moves the file to its target, replacing an existing one.

        Raises WrongSizeError, DigestMismatchError, and ValueError if a file would also have to be a folder.
        """
        self._check()
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.replace(self._target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise ValueError(f"{self._label!r} clashes with another object: a file cannot also be a folder") from None
        folder_sync(self._target.parent)

    def commit_if_absent(self) -> bool:
        """Like `commit`, but returns False if the target exists; True to exactly one of several concurrent callers."""
        self._check()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(self._temporary, self._target)
        except FileExistsError:
            return False
        folder_sync(self._target.parent)
        return True

    def _check(self) -> None:
        if self._size is not None and self._count != self._size:
            raise WrongSizeError(f"expected {self._size} bytes for {self._label}, got {self._count}")
        if self._sha256 is not None and self.digest != self._sha256:
            raise DigestMismatchError(f"expected SHA-256 {self._sha256} for {self._label}, got {self.digest}")
        self._file.flush()
        os.fsync(self._file.fileno())


def file_mark(state: os.stat_result) -> Mark:
    return [state.st_size, state.st_mtime_ns, state.st_ino]


def folder_sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
