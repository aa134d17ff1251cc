"""Free space on the worker's disk: how much a job may use, what is evicted, and a reserve for final writes."""

import os
import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from worker.transfer.cache import InputCache
from worker.transfer.files import disk_is_full
from worker.transfer.out_folder import OutFolder, UnsafeFileError

RESERVE_BYTES = 1 << 20
log = structlog.get_logger()


class Room:
    """Of the disk that `folder` lies on. Safe between threads.

    trainer_cache: folder of what trainers computed, all projects together; any file there may be deleted while no
    attempt uses it, and trainers set a file's mtime when they use it.
    """

    def __init__(
        self, folder: Path, cache: InputCache, trainer_cache: Path, limit_bytes: int, min_free_bytes: int
    ) -> None:
        self._folder = folder
        self._cache = cache
        self._trainer_cache = trainer_cache
        self._limit_bytes = limit_bytes
        self._min_free_bytes = min_free_bytes
        self._lock = threading.Lock()

    def free_bytes(self) -> int:
        return shutil.disk_usage(self._folder).free

    def for_inputs(self) -> int:
        """Bytes available for the inputs of one more job: free space and unused cache entries."""
        room = self.free_bytes() + self._cache.size_bytes() - self._min_free_bytes
        return max(0, min(room, self._cache.limit_bytes))

    def make(self, unused_since: float) -> bool:
        """Deletes cached files until `min_free_bytes` are free; False where that does not suffice.

        unused_since: Unix time; trainers' files that were used since then stay.
        """
        if self.free_bytes() >= self._min_free_bytes:
            return True
        with self._lock:
            missing = self._min_free_bytes - self.free_bytes()
            freed = self._trim(missing, unused_since) if missing > 0 else 0
            if missing > freed:
                self._cache.give_back(missing - freed)
        return self.free_bytes() >= self._min_free_bytes

    def trim_trainer_cache(self, unused_since: float) -> int:
        """Deletes the least recently used files beyond the cache's limit; how many bytes went."""
        with self._lock:
            return self._trim(self.trainer_cache_bytes() - self._limit_bytes, unused_since)

    def trainer_cache_bytes(self) -> int:
        return sum(size for _, size, _ in self._trainer_files())

    def _trim(self, need_bytes: int, unused_since: float) -> int:
        freed, safe = 0, OutFolder(self._trainer_cache)
        for used_at, size, path in sorted(self._trainer_files()) if need_bytes > 0 else ():
            if freed >= need_bytes or used_at >= unused_since:
                break
            with suppress(FileNotFoundError, UnsafeFileError):  # a trainer may put a link in a folder's place
                safe.unlink(path.relative_to(self._trainer_cache).as_posix())
                freed += size
        if freed:
            log.info("trainer_cache_trimmed", freed_bytes=freed)
        return freed

    def _trainer_files(self) -> list[tuple[float, int, Path]]:
        """(last use, bytes on the disk, path) of each; symlinks are not followed."""
        files = []
        for folder, _, names in os.walk(self._trainer_cache):
            for name in names:
                path = Path(folder, name)
                with suppress(FileNotFoundError):
                    stat = path.lstat()
                    files.append((stat.st_mtime, stat.st_blocks * 512, path))
        return files


class Reserve:
    """A file that is deleted when a full disk would prevent an attempt's finish from being written."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> None:
        """Allocates the reserve again; if the disk is full, the next call retries."""
        if self._path.exists():
            return
        draft = self._path.with_suffix(".tmp")
        try:
            with draft.open("wb") as file:
                file.write(bytes(RESERVE_BYTES))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError as error:
            log.warning("reserve_not_filled", error=str(error))
            with suppress(OSError):
                draft.unlink(missing_ok=True)

    def lend(self, write: Callable[[], None]) -> None:
        """Runs `write`, a second time without the reserve where the disk is full. Raises its OSError."""
        try:
            return write()
        except OSError as error:
            if not disk_is_full(error):
                raise
        log.warning("reserve_released", path=str(self._path))
        self._path.unlink(missing_ok=True)
        return write()
