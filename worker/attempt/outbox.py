"""Finish messages of attempts, on disk until the API has answered for good, also across a restart of the host.

Files that the API misses when the finish arrives are uploaded again; results that it refuses stay for a person.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import structlog

from foundation.boottime import boottime
from trainers.contract.errors import ReasonCode, reason
from worker.attempt.outcome import Manifest, manifest_read
from worker.attempt.publish import Publisher
from worker.client.api import OVER, Api
from worker.client.lease import Lease
from worker.errors import AttemptError, FencedError, RefusedError, UnreachableError
from worker.settings import Settings
from worker.transfer.files import remove_tree, write_json
from worker.transfer.out_folder import OutFolder, UnsafeFileError
from worker.transfer.transfer import Retry

MAX_RESENDS = 3
Entry = dict[str, Any]
"""{token, body, unpublished: why the body lacks the result that the trainer left, num_refusals, num_resends}"""
Resend = Callable[[str, str, Path, list[dict[str, Any]]], bool]
"""Uploads files again (attempt, its token, out/, records of the files); False where that cannot succeed."""
log = structlog.get_logger()


class Outbox:
    """One file per finish below `folder`, readable by us alone since it holds the attempt's token.

    `attempts` holds the folders of the attempts, whose out/ goes to `refused` where the API does not take the result.
    """

    def __init__(self, folder: Path, api: Api, *, attempts: Path, refused: "RefusedResults", resend: Resend) -> None:
        self._folder = folder
        self._torn = folder / "torn"
        self._api = api
        self._attempts = attempts
        self._refused = refused
        self._resend = resend
        self._torn.mkdir(parents=True, exist_ok=True)

    def put(self, attempt: str, token: str, body: dict[str, Any], unpublished: str = "") -> None:
        write_json(self._path(attempt), {"token": token, "body": body, "unpublished": unpublished}, mode=0o600)

    def pending(self) -> list[str]:
        """Attempts whose finish the API has neither accepted nor finally refused."""
        return sorted(path.stem for path in self._folder.glob("*.json"))

    def holds(self, attempt: str) -> bool:
        return self._path(attempt).exists()

    def deliver(self, attempt: str) -> bool:
        """Sends once. Returns True when nothing is left to deliver: accepted, or finally refused, which is recorded."""
        entry = self._read(attempt)
        return True if entry is None else self._try(attempt, entry)

    def _try(self, attempt: str, entry: Entry) -> bool:
        try:
            self._api.finish(attempt, entry["token"], entry["body"])
        except UnreachableError as error:
            log.warning("finish_not_delivered", attempt=attempt, error=str(error))
            return False
        except RefusedError as error:
            return self._on_refusal(attempt, entry, error)
        if entry.get("unpublished"):
            self._refused.add(attempt, self._out(attempt), entry["unpublished"], entry["body"])
        self._path(attempt).unlink()
        return True

    def _read(self, attempt: str) -> Entry | None:
        """Returns None for a malformed file, which is moved aside."""
        path = self._path(attempt)
        try:
            entry = json.loads(path.read_bytes())
            if not isinstance(entry["token"], str) or not isinstance(entry["body"]["outcome"], str):
                raise TypeError("expected token and outcome to be strings")
        except (ValueError, TypeError, KeyError) as error:
            log.error(
                "finish_torn", attempt=attempt, error=f"{type(error).__name__}: {error}", moved_to=str(self._torn)
            )
            path.replace(self._torn / path.name)
            self._refused.add_result(attempt, self._out(attempt), "the recorded finish could not be read")
            return None
        return dict(entry)

    def _on_refusal(self, attempt: str, entry: Entry, error: RefusedError) -> bool:
        if error.code == "file_missing" and entry["body"].get("resends"):
            return self._replace(attempt, self._sent_again(attempt, entry, error))
        log.error("finish_refused", attempt=attempt, outcome=entry["body"]["outcome"], error=str(error))
        if not entry.get("num_refusals"):
            self._refused.add(attempt, self._out(attempt), str(error), entry["body"])
        body = _smaller(entry, error)
        if error.code in OVER or body is None:
            self._path(attempt).unlink()
            return True
        return self._replace(attempt, {**entry, "body": body, "num_refusals": entry.get("num_refusals", 0) + 1})

    def _sent_again(self, attempt: str, entry: Entry, error: RefusedError) -> Entry:
        """Uploads again what the API misses; if that fails too often, the finish goes without its result."""
        missing = set(error.fields.get("missing", ()))
        files = [file for file in entry["body"]["files"] if file["path"] in missing]
        num_resends = entry.get("num_resends", 0) + 1
        log.warning("files_sent_again", attempt=attempt, files=sorted(missing)[:10], num_resends=num_resends)
        again = num_resends <= MAX_RESENDS and self._resend(attempt, entry["token"], self._out(attempt), files)
        return {**entry, "body": {**entry["body"], "resends": again}, "num_resends": num_resends}

    def _replace(self, attempt: str, entry: Entry) -> bool:
        """Replaces the refused entry by `entry`; on a full disk it is delivered from memory instead."""
        try:
            write_json(self._path(attempt), entry, mode=0o600)
        except OSError as error:
            log.error("finish_not_rewritten", attempt=attempt, error=str(error))
            return self._try(attempt, entry)
        return False

    def _path(self, attempt: str) -> Path:
        return self._folder / f"{attempt}.json"

    def _out(self, attempt: str) -> Path:
        return self._attempts / attempt / "out"


def _smaller(entry: Entry, error: RefusedError) -> dict[str, Any] | None:
    """The finish to try after a refused one: first without the result, then without texts; None if neither helps."""
    body, num_refusals = entry["body"], entry.get("num_refusals", 0)
    outcome = body["outcome"] if body["outcome"] in ("lost", "drained") else "failed"
    before = body.get("reason") or {}
    detail = f"The attempt had ended as {body['outcome']}. {before.get('message', '')} {before.get('detail', '')}"
    because = reason(ReasonCode.RESULT_REFUSED, f"The API refused the end of the attempt: {error}", detail.strip())
    minimal: dict[str, Any] = {
        "outcome": outcome,
        "exit_code": None,
        "reason": None,
        "manifest": None,
        "files": [],
        "last_step": None,
    }
    if num_refusals == 0:
        return {**minimal, "reason": because.model_dump(mode="json")}
    return minimal if num_refusals == 1 else None


def resend_with(api: Api, storage: httpx.Client, settings: Settings, owner: int | None = None) -> Resend:
    """`owner`: the user of the trainers' files, None = any."""

    def resend(attempt: str, token: str, out: Path, files: list[dict[str, Any]]) -> bool:
        attempt_api = api.attempt(attempt, token, Lease(boottime(), float("inf")))
        folder, staging = OutFolder(out, owner), out.with_name("again")
        publisher = Publisher(attempt_api, storage, folder, staging, settings.backoff_seconds)
        retry = Retry(settings.transfer_attempts, settings.backoff_seconds, time.sleep)
        try:
            for file in files:
                folder.stage(file["path"], staging / file["path"])
            publisher.upload([(file["path"], staging / file["path"]) for file in files], retry)
        except (AttemptError, RefusedError, FencedError, UnsafeFileError, OSError) as error:
            log.error("files_not_sent_again", attempt=attempt, error=str(error))
            return False
        finally:
            remove_tree(staging)
        return True

    return resend


MAX_ENTRIES = 1000


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
