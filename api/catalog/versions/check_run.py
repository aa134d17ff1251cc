"""Runs `api.catalog.checking` on stored files in a child process, and stores what it produces. Uses no database.

The child reads a folder of copies and writes another folder. It has no credentials of the storage, so that an image
that exploits its decoder gains nothing.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from api.catalog.versions.filelist import files_check
from api.environment import environment
from api.errors import Problem
from api.storage import storage

log = logging.getLogger(__name__)

File = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
FILE_BYTES = 1 << 40
ALIVE_SECONDS = 5
CHECK_FAILED = "check_failed"
"""Code of a Problem of the check itself, not of the files; it may be retried."""
FOLDER = "anneal-check-"
BYTES_PER_SECOND = 10_000_000
"""Least rate of a check: the time limit is ANNEAL_CHECK_SECONDS plus the size of the upload by this rate."""
STALE_SECONDS = 48 * 3600


class CheckSlots:
    """Slots of one process. A project holds at most one; waiting projects are served in order of arrival."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()
        self._running: set[Any] = set()
        self._waiting: list[tuple[Any, object]] = []

    def acquire(self, project: Any, *, wait: bool, alive: Callable[[], None] = lambda: None) -> bool:
        """Takes a slot for `project`, calling `alive` while it waits. False if none is free and `wait` is false."""
        ticket = (project, object())
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not self._is_next(ticket):
                    if not wait:
                        return False
                    if not self._changed.wait(ALIVE_SECONDS):
                        alive()
                self._free -= 1
                self._running.add(project)
                return True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def release(self, project: Any) -> None:
        with self._changed:
            self._free += 1
            self._running.remove(project)
            self._changed.notify_all()

    def _is_next(self, ticket: tuple[Any, object]) -> bool:
        """Whether it is the first ticket whose project runs no check."""
        first = next((waiting for waiting in self._waiting if waiting[0] not in self._running), None)
        return self._free > 0 and first is ticket


SLOTS = CheckSlots(2)
"""Concurrent checks of one process: each may use `check_memory_bytes`."""


@dataclass(frozen=True)
class Checked:
    key: str
    """Storage prefix of the version's files."""
    files: list[File]
    details: dict[str, Any]
    peak_bytes: int
    """Peak memory of the check."""


def folder_check(
    *,
    project: Any,
    kind: str,
    key: str,
    files: Sequence[File],
    unpack: bool,
    strip_metadata: bool = False,
    alive: Callable[[], None] = lambda: None,
    wait: bool = True,
) -> Checked | None:
    """Checks the files below `key`, calling `alive` repeatedly. Returns None if no slot is free and `wait` is false.

    Unpacked and rewritten files are stored below `files_key(key)`, previews below `preview_prefix`. Raises Problem.
    """
    if not SLOTS.acquire(project, wait=wait, alive=alive):
        return None
    try:
        order = {"kind": kind, "unpack": unpack, "strip_metadata": strip_metadata, "files": [*files]}
        return _checked(order, key, files, alive)
    finally:
        SLOTS.release(project)


def _checked(order: dict[str, Any], key: str, files: Sequence[File], alive: Callable[[], None]) -> Checked:
    with tempfile.TemporaryDirectory(prefix=FOLDER) as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        target.mkdir()
        _fetch(key, files, source, alive)
        report = _run(order, source, target, alive)
        if "refused" in report:
            raise Problem(**report["refused"])
        written = report["files"]
        place = key if written is None else files_key(key)
        if written is not None:
            written = files_check(written)
            for file in written:
                _store(target / "files", file["path"], f"{place}/", alive, sha256=file["sha256"])
        for path in sorted((target / "preview").glob("*")):
            _store(target / "preview", path.name, preview_prefix(place), alive)
        return Checked(place, written or [*files], report["details"], report["peak_bytes"])


def stale_folders_sweep() -> None:
    """Removes folders that killed processes left behind."""
    oldest = time.time() - STALE_SECONDS
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if folder.stat(follow_symlinks=False).st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def files_key(key: str) -> str:
    """Storage prefix of the files that a check of those below `key` wrote."""
    return f"{key}.files"


def preview_prefix(key: str) -> str:
    """Storage prefix of the preview of the version at `key`: outside of its files, which are the user's."""
    return f"{key}.preview/"


def _fetch(key: str, files: Sequence[File], source: Path, alive: Callable[[], None]) -> None:
    """Copies the files to `source` and verifies their digests."""
    for file in files:
        path = source / file["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("xb") as copy:
            for piece in storage().open_range(f"{key}/{file['path']}"):
                digest.update(piece)
                copy.write(piece)
                alive()
        if digest.hexdigest() != file["sha256"]:
            _reject(f"{file['path']}: expected SHA-256 {file['sha256']}, the storage has {digest.hexdigest()}")


def _run(order: dict[str, Any], source: Path, target: Path, alive: Callable[[], None]) -> dict[str, Any]:
    seconds, memory_bytes = check_seconds(order["files"]), environment().check_memory_bytes
    limits = {"memory_bytes": memory_bytes, "cpu_seconds": seconds, "file_bytes": FILE_BYTES}
    request, reading, errors = (target.with_name(name) for name in ("order", "reading", "errors"))
    request.write_text(json.dumps({**order, "limits": limits}))
    command = [sys.executable, "-P", "-m", "api.catalog.checking", str(source), str(target)]
    with request.open("rb") as into, reading.open("wb") as out, errors.open("wb") as err:
        child = subprocess.Popen(
            command, stdin=into, stdout=out, stderr=err, cwd=target, env=_variables(), start_new_session=True
        )
        try:
            _wait(child, time.monotonic() + seconds, alive)
        finally:
            child.kill()
            child.wait()
    report = target / "report.json"
    if report.is_file():
        result: dict[str, Any] = json.loads(report.read_bytes())
        return result
    return {"refused": _failure(child.returncode, _last_line(reading), errors)}


def check_seconds(files: Sequence[File]) -> int:
    """The time limit: grows with the uploaded bytes, but not with what they decode to."""
    return environment().check_seconds + sum(int(file["size"]) for file in files) // BYTES_PER_SECOND


def _wait(child: subprocess.Popen[bytes], until: float, alive: Callable[[], None]) -> None:
    while time.monotonic() < until:
        try:
            child.wait(timeout=ALIVE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            alive()


def _failure(code: int, last: str, errors: Path) -> dict[str, Any]:
    """The error of a check without a report: a signal is blamed on the file, an exit code is a fault of ours."""
    where = last or "the upload"
    if code < 0:
        message = f"{where}: looking at it took too long or too much memory, or broke its reader (signal {-code})"
        hint = "Make the file smaller or save it anew, then upload again."
        return {"code": "check_limit", "message": f"{message}.", "hint": hint, "fields": {"files": [message]}}
    log.error("the check of an upload failed: %s", errors.read_text(errors="replace")[-4000:])
    message = f"{where}: it could not be looked at; the cause is in the API's log"
    return {"code": CHECK_FAILED, "message": f"{message}.", "hint": "Try again.", "fields": {"files": [message]}}


def _variables() -> dict[str, str]:
    """The environment of the child, without credentials or URLs."""
    inherited = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}


def _last_line(reading: Path) -> str:
    with reading.open("rb") as file:
        file.seek(max(0, reading.stat().st_size - 4000))
        lines = file.read().decode("ascii", "replace").splitlines()
    return lines[-1] if lines else ""


def _store(folder: Path, path: str, prefix: str, alive: Callable[[], None], sha256: str | None = None) -> None:
    """Stores one file that the child wrote. Raises Problem for a link out of its folder."""
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise Problem(CHECK_FAILED, f"{path}: the check made no plain file of it.", hint="Try again.")
    storage().put_file(f"{prefix}{path}", file, sha256=sha256)
    alive()


def _reject(message: str) -> NoReturn:
    hint = "Mend the file, then upload again."
    raise Problem("invalid", f"{message}.", hint=hint, fields={"files": [message]})
