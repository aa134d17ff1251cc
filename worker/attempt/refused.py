"""Results that the API refused. They stay on this host until a person submits or removes them."""

import time
from pathlib import Path
from typing import Any

import structlog

from worker.attempt.outcome import Manifest, manifest_read
from worker.transfer.files import remove_tree, write_json
from worker.transfer.out_folder import OutFolder

MAX_ENTRIES = 1000
log = structlog.get_logger()


class RefusedResults:
    """`<folder>/<attempt>/`: finish.json says what was refused and why, out/ holds what the trainer left.

    At most `limit_bytes`: the oldest entries go first, the newest always stays. No method raises OSError.
    `owner`: the user of the trainers' files, None = any.
    """

    def __init__(self, folder: Path, limit_bytes: int, owner: int | None = None) -> None:
        self._folder = folder
        self._owner = owner
        self._limit_bytes = limit_bytes
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, attempt: str, out: Path, why: str, body: dict[str, Any] | None = None) -> None:
        """Moves `out` here if it holds a complete result, and records the reason. Idempotent."""
        entry = self._folder / attempt
        has_result = self._is_result(out)
        try:
            entry.mkdir(exist_ok=True)
            if has_result and not (entry / "out").exists():
                out.rename(entry / "out")
            write_json(entry / "finish.json", {"at": time.time(), "why": why, "body": body}, mode=0o600)
        except OSError as error:
            log.error("refusal_not_recorded", attempt=attempt, why=why, error=str(error))
        if (entry / "out").exists():
            log.error("result_not_published", attempt=attempt, why=why, folder=str(entry))
        self._prune()

    def add_result(self, attempt: str, out: Path, why: str) -> None:
        """Like `add`, but does nothing if the attempt left no complete result."""
        if self._is_result(out):
            self.add(attempt, out, why)

    def _is_result(self, out: Path) -> bool:
        return out.is_dir() and isinstance(manifest_read(OutFolder(out, self._owner)), Manifest)

    def count(self) -> int:
        """Number of results that wait for a person."""
        return sum((entry / "out").exists() for entry in self._folder.iterdir())

    def size_bytes(self) -> int:
        return sum(_size_bytes(entry) for entry in self._folder.iterdir())

    def _prune(self) -> None:
        entries = sorted(self._folder.iterdir(), key=lambda entry: entry.stat().st_mtime)
        sizes = [_size_bytes(entry) for entry in entries]
        while len(entries) > 1 and (sum(sizes) > self._limit_bytes or len(entries) > MAX_ENTRIES):
            log.error("refused_result_removed", attempt=entries[0].name, limit_bytes=self._limit_bytes)
            try:
                remove_tree(entries[0])
            except OSError as error:
                log.error("refused_result_not_removed", attempt=entries[0].name, error=str(error))
            del entries[0], sizes[0]


def _size_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
