"""Fetches a Hub repository into a folder, without any file that could run code."""

import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from formats.models.configs import PICKLE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Started, Warning_
from trainers.contract.params.fetch import FetchParams
from trainers.core.context import JobContext, Outcome
from trainers.core.hub.client import HubFile, RepoType, Source, file_fetch, hub_files, hub_session

PICKLES = (*PICKLE_ENDINGS, ".msgpack", ".h5", ".onnx")
CARD = "README.md"
MAX_CARD_BYTES = 1 << 20
MAX_FILES = 9_000
"""The API takes at most 10,000 in a finished attempt."""
MAX_NAMED = 5
PROGRESS_SECONDS = 1.0
SPARE_BYTES = 1 << 28
"""Left free on the disk for other processes."""


class Kind(NamedTuple):
    repo_type: RepoType
    folder: str
    """Below out/."""
    endings: tuple[str, ...]
    refusal: ReasonCode
    """Why a job fails if the repository holds nothing of use."""
    first: tuple[str, ...] = ()
    """Small files, any of which identifies the repository: fetched first; then `check` is called with the folder."""
    check: Callable[[Path, FetchParams], None] = lambda _folder, _params: None
    layout: Callable[[list[str], str, FetchParams], dict[str, str]] | None = None
    """(paths, README.md or "", params) -> path below `folder` of each file that is fetched; None = all, as they lie."""


class StoppedError(Exception):
    """A stop was requested in the middle of a file."""


@dataclass
class Fetch:
    job: JobContext
    params: FetchParams
    target: Path
    source: Source
    total_bytes: int = 0
    done_bytes: int = 0
    """Of the complete files."""
    reported_at: float = 0.0

    def report(self, size: int) -> None:
        """Reports that `size` bytes of the current file have arrived."""
        if self.job.control.stop_is_wanted():
            raise StoppedError
        if time.monotonic() - self.reported_at > PROGRESS_SECONDS:
            self.reported_at = time.monotonic()
            self.job.reporter.emit(Progress(stage="fetch", done=self.done_bytes + size, total=self.total_bytes))


def fetch_into(job: JobContext[FetchParams], kind: Kind) -> Outcome:
    """Fills out/<folder> with the safe files of the repository. After "stopped" the next attempt continues."""
    return files_fetch(job, kind, job.params, job.out / kind.folder)


def files_fetch(job: JobContext, kind: Kind, params: FetchParams, target: Path) -> Outcome:
    """As `fetch_into`, for a job of any method: fetches what `params` select into the folder `target`."""
    source = Source(params.endpoint, params.repo, kind.repo_type, params.revision)
    try:
        with hub_session(source), _parts_folder(job) as parts:
            return _fetch(Fetch(job, params, target, source), kind, parts)
    except StoppedError:
        if command := job.control.agree():
            job.control.obeyed(command, 0)
        return "stopped"


def _fetch(fetch: Fetch, kind: Kind, parts: Path) -> Outcome:
    commit, files = hub_files(fetch.source)
    chosen = _choose(fetch, kind, files)
    layout = {file.path: file.path for file in chosen}
    if kind.layout is not None:
        layout = kind.layout([*layout], _card(fetch, commit, files, parts), fetch.params)
        chosen = [file for file in chosen if file.path in layout]
    _size_check(fetch, chosen)
    fetch.total_bytes = sum(file.size for file in chosen)
    source = {"endpoint": fetch.source.endpoint, "repo": fetch.source.repo, "revision": fetch.source.revision}
    fetch.job.facts["source"] = {**source, "commit": commit}
    fetch.job.reporter.emit(
        Started(total=len(chosen), details={**source, "commit": commit, "size_bytes": fetch.total_bytes})
    )
    _room_check(fetch, parts)
    num_first = sum(file.path in kind.first for file in chosen)
    for number, file in enumerate(sorted(chosen, key=lambda file: file.path not in kind.first), start=1):
        if (command := fetch.job.control.agree()) is not None:
            fetch.job.control.obeyed(command, number - 1)
            if command.name == "stop":
                return "stopped"
        part = parts / hashlib.sha256(f"{commit}/{file.path}".encode()).hexdigest()
        file_fetch(fetch.source, commit, file, part, fetch.report)
        fetch.done_bytes += file.size
        _place(part, fetch.target / layout[file.path])
        if number == num_first:
            kind.check(fetch.target, fetch.params)
    fetch.job.facts["steps"] = len(chosen)
    fetch.job.reporter.emit(Progress(stage="fetch", done=fetch.total_bytes, total=fetch.total_bytes))
    return "succeeded"


def _choose(fetch: Fetch, kind: Kind, files: Sequence[HubFile]) -> list[HubFile]:
    """The files to fetch; a warning lists the requested files that are left out, and why."""
    requested = [file for file in files if _is_requested(file.path, fetch.params)]
    chosen = [file for file in requested if _is_safe(file.path, kind.endings)]
    left = [file.path for file in requested if file not in chosen and not file.path.startswith(".")]
    if left:
        fetch.job.reporter.emit(Warning_(message=_left_out(left, kind)))
    if not chosen:
        endings = " ".join(kind.endings)
        names = _few([file.path for file in requested]) or "none"
        message = f"{fetch.source} has no file to fetch: expected {endings}, got {names}."
        raise TrainerError(kind.refusal, message)
    if kind.first and not any(file.path in kind.first for file in chosen):
        message = f"{fetch.source} has no {' or '.join(kind.first)}, or allow and ignore leave them out."
        raise TrainerError(kind.refusal, message)
    return chosen


def _size_check(fetch: Fetch, chosen: Sequence[HubFile]) -> None:
    params = fetch.params
    if len(chosen) > MAX_FILES:
        message = (
            f"{fetch.source} has {len(chosen)} files to fetch; at most {MAX_FILES} are published; choose by allow."
        )
        raise TrainerError(ReasonCode.BAD_PARAMETERS, message)
    size = sum(file.size for file in chosen)
    if size > params.max_gigabytes * 1e9:
        message = (
            f"{fetch.source}: {size / 1e9:.1f} GB are more than max_gigabytes={params.max_gigabytes:g}; choose by allow"
        )
        raise TrainerError(ReasonCode.BAD_PARAMETERS, f"{message} and ignore, or raise it.")


def _card(fetch: Fetch, commit: str, files: Sequence[HubFile], parts: Path) -> str:
    """The repository's README.md, whose head lists configurations and splits; "" if missing or too large."""
    card = next((file for file in files if file.path == CARD and file.size <= MAX_CARD_BYTES), None)
    if card is None:
        return ""
    part = parts / "card"
    file_fetch(fetch.source, commit, card, part, lambda _: None)
    text = part.read_text(encoding="utf-8", errors="replace")
    part.unlink()
    return text


def _is_requested(path: str, params: FetchParams) -> bool:
    is_requested = not params.allow or any(fnmatch(path, pattern) for pattern in params.allow)
    return is_requested and not any(fnmatch(path, pattern) for pattern in params.ignore)


def _is_safe(path: str, endings: tuple[str, ...]) -> bool:
    """Judged by its ending, and by its path, which must stay below the target folder."""
    parts = path.split("/")
    plain = "\\" not in path and path.isprintable() and not any(part == "" or part.startswith(".") for part in parts)
    return plain and PurePosixPath(path).suffix.lower() in endings


def _left_out(paths: list[str], kind: Kind) -> str:
    pickles = [path for path in paths if PurePosixPath(path).suffix.lower() in PICKLES]
    others = [path for path in paths if path not in pickles]
    message = [f"left out, since pickled weights can run code: {_few(pickles)}"] if pickles else []
    if others:
        message.append(f"left out, since only {' '.join(kind.endings)} are fetched: {_few(others)}")
    return "; ".join(message)


def _few(paths: list[str]) -> str:
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return ", ".join(path[:200] for path in paths[:MAX_NAMED]) + more


def _room_check(fetch: Fetch, parts: Path) -> None:
    here = sum(part.stat().st_size for part in parts.iterdir())
    needed = fetch.total_bytes - here + SPARE_BYTES
    free = shutil.disk_usage(parts).free
    if needed > free:
        message = (
            f"{fetch.source} needs {needed / 1e9:.1f} GB more on the worker's disk, which has {free / 1e9:.1f} GB free."
        )
        raise TrainerError(ReasonCode.DISK_FULL, message)


def _place(part: Path, target: Path) -> None:
    """By a hard link, which takes no space; by a copy if the cache is on another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(part, target)
    except OSError:
        shutil.copyfile(part, target)


@contextmanager
def _parts_folder(job: JobContext) -> Iterator[Path]:
    """The folder of this host that holds a partial download for the next attempt; removed after a complete one.

    While another job of the same spec uses it, a separate folder.
    """
    folder = job.cache / "fetch" / job.spec.digest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = folder.with_suffix(f".{os.getpid()}")
        folder.mkdir(exist_ok=True)
        yield folder
    if (job.facts.get("steps")) is not None:
        shutil.rmtree(folder, ignore_errors=True)
