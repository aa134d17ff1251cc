"""Starts `api.catalog.checking` on files of the storage and keeps what it made. Knows no database.

The child gets a folder of copies and gives a folder back; it holds no key of the storage, so that an image that breaks
its decoder reaches nothing.
"""

import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.catalog.versions.check_slots import CheckSlots
from api.catalog.versions.filelist import files_check
from api.catalog.versions.refusal import refuse
from api.environment import environment
from api.errors import Problem
from api.storage import storage

log = logging.getLogger(__name__)

File = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
FILE_BYTES = 1 << 40
ALIVE_SECONDS = 5
CHECK_FAILED = "check_failed"
"""Code of a refusal that says nothing about the files: the check itself broke, and may be tried again."""
FOLDER = "anneal-check-"
SLOTS = CheckSlots(2)
"""Checks at a time in one process: each may take `check_memory_bytes`. One project holds at most one of them."""
BYTES_PER_SECOND = 10_000_000
"""Of an upload, read by the slowest check, above ANNEAL_CHECK_SECONDS."""
STALE_SECONDS = 48 * 3600


@dataclass(frozen=True)
class Checked:
    key: str
    """Prefix that the version's files lie under."""
    files: list[File]
    details: dict[str, Any]
    peak_bytes: int
    """Most memory that the check took."""


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
    """Looks at the files below `key`; `alive` is called again and again meanwhile. None: no slot, and not to `wait`.

    What is unpacked or rewritten lies below `files_key(key)` then, previews below `preview_prefix`. Raises Problem.
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
        made = report["files"]
        place = key if made is None else files_key(key)
        if made is not None:
            made = files_check(made)
            for file in made:
                _keep(target / "files", file["path"], f"{place}/", alive, sha256=file["sha256"])
        for path in sorted((target / "preview").glob("*")):
            _keep(target / "preview", path.name, preview_prefix(place), alive)
        return Checked(place, made or [*files], report["details"], report["peak_bytes"])


def stale_folders_sweep() -> None:
    """Removes the copies that a killed process left."""
    oldest = time.time() - STALE_SECONDS
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER}*"):
        if folder.stat(follow_symlinks=False).st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def files_key(key: str) -> str:
    """Where files lie that a check made of those below `key`."""
    return f"{key}.files"


def preview_prefix(key: str) -> str:
    """Where the preview of the version at `key` lies: beside its files, which are the user's own."""
    return f"{key}.preview/"


def _fetch(key: str, files: Sequence[File], source: Path, alive: Callable[[], None]) -> None:
    """Copies, their digests checked on the way."""
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
            refuse(f"{file['path']}: expected SHA-256 {file['sha256']}, the storage has {digest.hexdigest()}")


def _run(order: dict[str, Any], source: Path, target: Path, alive: Callable[[], None]) -> dict[str, Any]:
    found = environment()
    seconds = check_seconds(order["files"])
    limits = {"memory_bytes": found.check_memory_bytes, "cpu_seconds": seconds, "file_bytes": FILE_BYTES}
    wish, reading, errors = (target.with_name(name) for name in ("order", "reading", "errors"))
    wish.write_text(json.dumps({**order, "limits": limits}))
    command = [sys.executable, "-P", "-m", "api.catalog.checking", str(source), str(target)]
    with wish.open("rb") as into, reading.open("wb") as out, errors.open("wb") as err:
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
        answer: dict[str, Any] = json.loads(report.read_bytes())
        return answer
    return {"refused": _death(child.returncode, _last_line(reading), errors)}


def check_seconds(files: Sequence[File]) -> int:
    """A fixed time, and more for what was really sent: a small file that decodes to much gets no more time."""
    return environment().check_seconds + sum(int(file["size"]) for file in files) // BYTES_PER_SECOND


def _wait(child: subprocess.Popen[bytes], until: float, alive: Callable[[], None]) -> None:
    while time.monotonic() < until:
        try:
            child.wait(timeout=ALIVE_SECONDS)
            return
        except subprocess.TimeoutExpired:
            alive()


def _death(code: int, last: str, errors: Path) -> dict[str, Any]:
    """What the owner is told of a check that left no report. A signal was the file's doing, an exit code is ours."""
    where = last or "the upload"
    if code < 0:
        said = f"{where}: looking at it took too long or too much memory, or broke its reader (signal {-code})"
        hint = "Make the file smaller or save it anew, then upload again."
        return {"code": "check_limit", "message": f"{said}.", "hint": hint, "fields": {"files": [said]}}
    log.error("the check of an upload failed: %s", errors.read_text(errors="replace")[-4000:])
    said = f"{where}: it could not be looked at; the cause is in the API's log"
    return {"code": CHECK_FAILED, "message": f"{said}.", "hint": "Try again.", "fields": {"files": [said]}}


def _variables() -> dict[str, str]:
    """Nothing of ours: no key, no address."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"}


def _last_line(reading: Path) -> str:
    with reading.open("rb") as file:
        file.seek(max(0, reading.stat().st_size - 4000))
        lines = file.read().decode("ascii", "replace").splitlines()
    return lines[-1] if lines else ""


def _keep(folder: Path, path: str, prefix: str, alive: Callable[[], None], sha256: str | None = None) -> None:
    """Stores one file that the child made; a link would lead out of its folder."""
    file = folder / path
    if not file.resolve().is_relative_to(folder.resolve()) or not file.is_file():
        raise Problem(CHECK_FAILED, f"{path}: the check made no plain file of it.", hint="Try again.")
    storage().put_file(f"{prefix}{path}", file, sha256=sha256)
    alive()
