"""Cache of inputs by digest, one per host: complete, bounded, never evicted while in use.

<root>/entries/<sha256>/entry.json      the files with size and mtime, written last
<root>/entries/<sha256>/files/...       read-only
<root>/fetching/<sha256>/...            what is on its way, kept for the next try
<root>/locks/<sha256>                   flock: exclusive to fetch or evict, shared to use; mtime = last use
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import structlog

from foundation.retry import Pause
from trainers.contract.errors import ReasonCode
from trainers.contract.spec import folder_digest
from worker.client.payloads import InputPart
from worker.errors import AttemptError
from worker.transfer.files import disk_is_full, remove_tree, write_json
from worker.transfer.transfer import RemoteFile

Fetch = Callable[[RemoteFile, Path], None]
"""Fetches one file to a path, or raises."""
LOCK_POLL_SECONDS = 0.1
log = structlog.get_logger()


class InputCache:
    """Safe between threads and between host processes that share `root`."""

    def __init__(self, root: Path, size_limit_bytes: int) -> None:
        self._root = root
        self._limit = size_limit_bytes
        self.hits = 0
        self.fetched = 0
        """Cache hits and misses of this process."""
        for name in ("entries", "fetching", "locks"):
            (root / name).mkdir(parents=True, exist_ok=True)

    @contextmanager
    def held(self, part: InputPart, fetch: Fetch, pause: Pause) -> Iterator[Path]:
        """The folder of `part`, fetched if need be, and kept as long as the context lasts.

        Raises AttemptError(input_corrupt | storage_refused | disk_full), or what `pause` raises while another fetches.
        """
        check_listing(part)
        with (self._root / "locks" / part.sha256).open("a") as lock:
            while not self._hold(lock.fileno(), part, fetch):
                pause(LOCK_POLL_SECONDS)
            os.utime(lock.fileno())
            yield self._entry(part.sha256) / "files"

    def _hold(self, lock: int, part: InputPart, fetch: Fetch) -> bool:
        """Ends with the shared lock on a whole entry, or False with no lock: somebody else is at it.

        Who waited with the shared lock would bar the exclusive one to the other, and the other to him.
        """
        if not _locked(lock, fcntl.LOCK_SH):
            return False
        if self._is_whole(part):
            self.hits += 1
            return True
        if _locked(lock, fcntl.LOCK_EX) and not self._is_whole(part):  # a failed conversion drops the shared lock
            self._fetch(part, fetch)
            self.fetched += 1
        if _locked(lock, fcntl.LOCK_SH) and self._is_whole(part):
            return True
        fcntl.flock(lock, fcntl.LOCK_UN)
        return False

    @property
    def limit_bytes(self) -> int:
        return self._limit

    def size_bytes(self) -> int:
        """Size in bytes of complete entries and of partial downloads."""
        total_bytes = sum(self._entry_size(entry.name) for entry in (self._root / "entries").iterdir())
        return total_bytes + sum(_tree_bytes(draft) for draft in (self._root / "fetching").iterdir())

    def give_back(self, need_bytes: int) -> None:
        """Evicts unused entries and partial downloads, the least recently used first, until so many bytes are freed."""
        keep_bytes = self.size_bytes() - need_bytes
        for lock in self._by_last_use():
            if self.size_bytes() <= keep_bytes:
                return
            self._evict(lock)

    def _entry(self, sha256: str) -> Path:
        return self._root / "entries" / sha256

    def _is_whole(self, part: InputPart) -> bool:
        """All files are there with the size and mtime that they were fetched with."""
        record = self._entry(part.sha256) / "entry.json"
        if not record.exists():
            return False
        recorded = json.loads(record.read_bytes())["files"]
        return all(_stat(self._entry(part.sha256) / "files" / path) == expected for path, expected in recorded.items())

    def _fetch(self, part: InputPart, fetch: Fetch) -> None:
        """Under the exclusive lock."""
        remove_tree(self._entry(part.sha256))
        self._make_room(sum(file.size for file in part.files))
        draft = self._root / "fetching" / part.sha256
        for file in part.files:
            target = draft / "files" / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                self._fetch_file(RemoteFile(file.path, file.size, file.sha256), target, draft, fetch)
        files = {file.path: draft / "files" / file.path for file in part.files}
        for path in files.values():
            path.chmod(0o444)
        write_json(draft / "entry.json", {"files": {name: _stat(path) for name, path in files.items()}})
        draft.rename(self._entry(part.sha256))
        for folder, _, _ in os.walk(self._entry(part.sha256) / "files"):
            Path(folder).chmod(0o555)

    def _fetch_file(self, file: RemoteFile, target: Path, draft: Path, fetch: Fetch) -> None:
        """Deletes a partial download if the disk is full; after any other error it stays for the next try."""
        try:
            fetch(file, target)
        except (OSError, AttemptError) as error:
            full = disk_is_full(error) if isinstance(error, OSError) else error.reason.code == ReasonCode.DISK_FULL
            if full:
                remove_tree(draft)
            raise

    def _make_room(self, need_bytes: int) -> None:
        if need_bytes > self._limit:
            raise AttemptError(
                ReasonCode.DISK_FULL,
                f"an input of {need_bytes} bytes is larger than the worker's whole cache of {self._limit} bytes; "
                "raise ANNEAL_CACHE_BYTES",
            )
        for lock in self._by_last_use():
            if self.size_bytes() + need_bytes <= self._limit:
                return
            self._evict(lock)
        if self.size_bytes() + need_bytes > self._limit:
            log.warning(
                "cache_over_limit", need_bytes=need_bytes, limit_bytes=self._limit, reason="all entries are in use"
            )

    def _by_last_use(self) -> list[Path]:
        return sorted((self._root / "locks").iterdir(), key=lambda path: path.stat().st_mtime)

    def _evict(self, lock: Path) -> None:
        """Removes the entry of `lock` unless it is being used or fetched."""
        with lock.open("a") as file:
            if _locked(file.fileno(), fcntl.LOCK_EX):
                remove_tree(self._entry(lock.name))
                remove_tree(self._root / "fetching" / lock.name)

    def _entry_size(self, sha256: str) -> int:
        try:
            recorded = json.loads((self._entry(sha256) / "entry.json").read_bytes())["files"]
        except FileNotFoundError:
            return 0  # evicted meanwhile
        return sum(size for size, _ in recorded.values())


def _tree_bytes(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(parent, name).lstat().st_size
    return total


def check_listing(part: InputPart) -> None:
    """Raises AttemptError if the file list does not match its digest, or a path leaves the folder."""
    digest = folder_digest([file.model_dump() for file in part.files])
    if digest != part.sha256:
        raise AttemptError(ReasonCode.INPUT_CORRUPT, f"the file list has digest {digest}, expected {part.sha256}")
    for file in part.files:
        parts = PurePosixPath(file.path).parts
        if not parts or file.path.startswith("/") or ".." in parts:
            raise AttemptError(ReasonCode.INPUT_CORRUPT, f"expected a path inside the input, got {file.path!r}")


def _stat(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
