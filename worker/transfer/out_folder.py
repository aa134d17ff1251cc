"""What a trainer leaves in `out/`, read as hostile: whoever uploaded its inputs may have written these files.

The only reader of `out/` in the worker, and what deletes in the folders that trainers write meanwhile. No link is
followed at any part of a path, only regular files are opened, and opening one never waits (a FIFO would). Paths, depths
and counts have bounds, and so has what is read at once.
"""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PATH_CHARACTERS = 1000
NAME_BYTES = 255
DEPTH = 32
FILES = 100_000
"""In one folder that is published."""
LAST_CONTROL, DELETE = 31, 127
AS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
AS_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class UnsafeFileError(ValueError):
    """Something in `out/` that no trainer of ours leaves: says what was expected and what is there."""


class Usage(NamedTuple):
    entries: int
    """Files, folders, links and whatever else has a name."""
    size_bytes: int


@dataclass(frozen=True)
class OutFolder:
    """`owner`: the user whose files it holds, so that no file of the host enters by a hard link; None = any."""

    root: Path
    owner: int | None = None

    def read(self, path: str, *, start: int = 0, limit: int) -> bytes:
        """At most `limit` bytes from `start` on. Raises FileNotFoundError or UnsafeFileError."""
        with self._opened(path) as descriptor:
            return os.pread(descriptor, limit, start)

    def size(self, path: str) -> int:
        """Of a regular file. Raises FileNotFoundError or UnsafeFileError."""
        with self._opened(path) as descriptor:
            return os.fstat(descriptor).st_size

    def unlink(self, path: str) -> None:
        """Removes a file or a link by itself, whatever its name, with no link followed on the way. Raises as `read`."""
        with self._parent(path, path.split("/")) as (folder, name):
            os.unlink(name, dir_fd=folder)

    def has_folder(self, name: str) -> bool:
        try:
            return stat.S_ISDIR(os.lstat(self.root / name).st_mode)
        except FileNotFoundError:
            return False

    def files(self, folder: str, *, limit: int) -> list[str]:
        """Paths of the regular files right inside `folder`, at most `limit` of them, by name. Raises as `read`."""
        with self._parent(f"{folder}/-") as (descriptor, _):
            names = sorted(entry.name for entry in os.scandir(descriptor) if entry.is_file(follow_symlinks=False))
        return [f"{folder}/{name}" for name in names[:limit]]

    def usage(self, *, most_entries: int) -> Usage:
        """Counts what is below the folder; ends early once there are more than `most_entries`.

        Raises UnsafeFileError for a folder that is too deep or cannot be opened.
        """
        try:
            descriptor = _folder_open(str(self.root), None, self.root.name)
        except FileNotFoundError:
            return Usage(0, 0)
        return _usage(descriptor, self.root.name, most_entries, DEPTH)

    def stage(self, path: str, target: Path) -> None:
        """Hard links `path`, a file or a folder, to `target`, whose folder the trainer cannot reach.

        Raises FileNotFoundError where it is gone, UnsafeFileError where it holds anything but files and folders.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._parent(path) as (folder, name):
            self._stage(folder, name, target, path, [FILES])

    def _stage(self, folder: int, name: str, target: Path, path: str, left: list[int]) -> None:
        try:
            child = os.open(name, AS_FOLDER, dir_fd=folder)
        except NotADirectoryError:
            self._stage_file(folder, name, target, path, left)
            return
        except OSError as error:
            raise _reason(error, path) from error
        try:
            target.mkdir()
            for entry in sorted(os.listdir(child)):  # noqa: PTH208 by descriptor
                below = f"{path}/{entry}"
                checked_parts(below)
                self._stage(child, entry, target / entry, below, left)
        finally:
            os.close(child)

    def _stage_file(self, folder: int, name: str, target: Path, path: str, left: list[int]) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise UnsafeFileError(f"{path}: expected at most {FILES} files in one folder")
        os.link(name, target, src_dir_fd=folder, follow_symlinks=False)
        try:
            self._check(os.lstat(target), path)
        except UnsafeFileError:
            target.unlink()
            raise

    @contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        with self._parent(path) as (folder, name):
            try:
                descriptor = os.open(name, AS_FILE, dir_fd=folder)
            except FileNotFoundError:
                raise
            except OSError as error:  # a link, or a socket
                raise _reason(error, path) from error
        try:
            self._check(os.fstat(descriptor), path)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _parent(self, path: str, parts: list[str] | None = None) -> Iterator[tuple[int, str]]:
        """A descriptor of the folder that holds `path`, and its last name."""
        *folders, name = parts or checked_parts(path)
        descriptor = _folder_open(str(self.root), None, path)
        try:
            for folder in folders:
                inner = _folder_open(folder, descriptor, path)
                os.close(descriptor)
                descriptor = inner
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result, path: str) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise UnsafeFileError(f"{path}: expected a regular file, found a {_kind(status.st_mode)}")
        if self.owner is not None and status.st_uid != self.owner:
            raise UnsafeFileError(
                f"{path}: expected a file of the trainer's user {self.owner}, found {status.st_uid}'s"
            )


def _usage(folder: int, path: str, most_entries: int, depth: int) -> Usage:
    """Of an open folder, which is closed."""
    entries = size_bytes = 0
    try:
        if depth < 0:
            raise UnsafeFileError(f"{path[:80]}: expected at most {DEPTH} folders inside one another")
        with os.scandir(folder) as children:
            for child in children:
                entries += 1
                if entries > most_entries:
                    break
                with suppress(FileNotFoundError):  # the trainer removed it meanwhile
                    below = _entry_usage(folder, child, f"{path}/{child.name}", most_entries - entries, depth - 1)
                    entries, size_bytes = entries + below.entries, size_bytes + below.size_bytes
    finally:
        os.close(folder)
    return Usage(entries, size_bytes)


def _entry_usage(folder: int, entry: "os.DirEntry[str]", path: str, most_entries: int, depth: int) -> Usage:
    """What is below a folder, or the size of anything else."""
    if entry.is_dir(follow_symlinks=False):
        return _usage(_folder_open(entry.name, folder, path), path, most_entries, depth)
    return Usage(0, entry.stat(follow_symlinks=False).st_size)


def checked_parts(path: str) -> list[str]:
    """The names in a path below out/. Raises UnsafeFileError for one that leaves it, or that no storage should hold."""
    parts = path.split("/")
    if not path or len(path) > PATH_CHARACTERS or len(parts) > DEPTH:
        raise UnsafeFileError(
            f"expected a path of 1 to {PATH_CHARACTERS} characters and {DEPTH} folders: {path[:80]!r}"
        )
    for part in parts:
        if part in ("", ".", ".."):
            raise UnsafeFileError(f"{path!r} is not inside out/")
        if any(ord(letter) <= LAST_CONTROL or ord(letter) == DELETE for letter in part):
            raise UnsafeFileError(f"{path!r} has a control character")
        if _bytes(part) > NAME_BYTES:
            raise UnsafeFileError(f"{path[:80]!r}: expected names of at most {NAME_BYTES} bytes of UTF-8")
    return parts


def _bytes(name: str) -> int:
    try:
        return len(name.encode())
    except UnicodeEncodeError:  # bytes that are no UTF-8, or a lone surrogate
        return NAME_BYTES + 1


def _folder_open(name: str, folder: int | None, path: str) -> int:
    try:
        return os.open(name, AS_FOLDER, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _reason(error, path) from error


def _reason(error: OSError, path: str) -> Exception:
    return (
        error
        if isinstance(error, FileNotFoundError)
        else UnsafeFileError(f"{path}: expected files and folders: {error}")
    )


def _kind(mode: int) -> str:
    kinds = {stat.S_IFLNK: "link", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(mode), "device")


LOOK_SECONDS = 2.0
SHARE = 20
"""Looking takes at most one part in this many of the time."""


class OutBounds:
    """`folders` are counted together. A file that was removed but is still open is not seen."""

    def __init__(self, folders: Sequence[OutFolder], *, most_files: int, most_bytes: int) -> None:
        self._folders = folders
        self._most_files = most_files
        self._most_bytes = most_bytes
        self._next_look = 0.0

    def look(self) -> str:
        """`problem`, once it is time again."""
        started = time.monotonic()
        if started < self._next_look:
            return ""
        problem = self.problem()
        now = time.monotonic()
        self._next_look = now + max(LOOK_SECONDS, SHARE * (now - started))
        return problem

    def problem(self) -> str:
        """A sentence that says which bound is exceeded; empty where none is."""
        entries = size_bytes = 0
        try:
            for folder in self._folders:
                usage = folder.usage(most_entries=self._most_files - entries)
                entries, size_bytes = entries + usage.entries, size_bytes + usage.size_bytes
        except UnsafeFileError as error:
            return f"The trainer left folders that cannot be read: {error}."
        if entries > self._most_files:
            return f"Expected at most {self._most_files} files and folders in out/, found more."
        if size_bytes > self._most_bytes:
            return f"Expected at most {self._most_bytes} bytes in out/, found {size_bytes}."
        return ""
