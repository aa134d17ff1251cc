"""Publishes results: staged at once, uploaded in the background, visible once the API has recorded them."""

import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import httpx
import structlog

from foundation.digests import sha256_of
from foundation.multipart import parts_upload
from foundation.retry import Pause
from trainers.contract.errors import ReasonCode
from worker.client.api import AttemptApi, insist
from worker.errors import AttemptError, RefusedError
from worker.transfer.files import remove_tree
from worker.transfer.out_folder import OutFolder, UnsafeFileError, checked_parts
from worker.transfer.transfer import TIMEOUT, LinkExpiredError, Retry, check_answer, repeated, upload

FILES_AT_ONCE = 100
JOIN_SECONDS = 900.0
"""Longest wait for the API to join a large file and read it once."""
log = structlog.get_logger()


@dataclass(frozen=True)
class Artifact:
    """A file or folder `path` below out/, at the time of staging."""

    kind: str
    step: int
    path: str
    details: dict[str, Any]
    staged: Path
    done: threading.Event = field(default_factory=threading.Event)
    """Set once it is published or has finally failed."""
    turn: threading.Event = field(default_factory=threading.Event)
    """Set once the API has every event before the one that shows it."""


class Publisher:
    def __init__(
        self, api: AttemptApi, client: httpx.Client, out: OutFolder, staging: Path, backoff_seconds: float
    ) -> None:
        self._api = api
        self._client = client
        self._out = out
        self._staging = staging
        self._backoff_seconds = backoff_seconds
        self._queue: deque[Artifact] = deque()
        self._work = threading.Event()
        self._count = 0
        self._published: set[tuple[str, str]] = set()
        self.problem: AttemptError | None = None
        """Why the latest checkpoint could not be published; None after a success."""

    def stage(self, kind: str, step: int, path: str, details: dict[str, Any]) -> Artifact | None:
        """Stages `path` by hard links, so that the trainer may delete it. Returns None if it is missing or unsafe."""
        self._count += 1
        place = self._staging / str(self._count)
        try:
            staged = place.joinpath(*checked_parts(path))
            self._out.stage(path, staged)
        except (FileNotFoundError, UnsafeFileError) as error:
            log.warning("artifact_not_staged", kind=kind, path=path[:1000], error=str(error))
            if kind == "checkpoint" and isinstance(error, UnsafeFileError):
                self.problem = AttemptError(ReasonCode.STORAGE_REFUSED, "A checkpoint was refused.", str(error))
            remove_tree(place)
            return None
        return self._add(Artifact(kind, step, path, details, staged))

    def stage_bytes(self, kind: str, step: int, path: str, data: bytes, details: dict[str, Any]) -> Artifact:
        """As a file `path` below out/, where there is none. Raises OSError."""
        self._count += 1
        staged = self._staging.joinpath(str(self._count), *checked_parts(path))
        staged.parent.mkdir(parents=True)
        staged.write_bytes(data)
        return self._add(Artifact(kind, step, path, details, staged))

    def _add(self, artifact: Artifact) -> Artifact:
        self._queue.append(artifact)
        self._work.set()
        return artifact

    def run(self, ended: threading.Event, pause: Pause) -> None:
        """Publishes staged artifacts until `ended` is set and none is left. `pause` limits the time for each."""
        while not (ended.is_set() and not self._queue):
            if not self._queue:
                self._work.wait(0.1)
                self._work.clear()
                continue
            artifact = self._queue[0]
            try:
                self._publish_once(artifact, Retry(sys.maxsize, self._backoff_seconds, pause))
            finally:
                artifact.done.set()
            self._queue.popleft()
            remove_tree(self._staging / artifact.staged.relative_to(self._staging).parts[0])

    def upload(self, files: Sequence[tuple[str, Path]], retry: Retry) -> list[dict[str, Any]]:
        """Uploads (path below out/, local file) pairs; returns their records. Raises AttemptError."""
        records = [{"path": path, "size": local.stat().st_size, "sha256": sha256_of(local)} for path, local in files]
        places = dict(files)
        for start in range(0, len(records), FILES_AT_ONCE):
            batch = records[start : start + FILES_AT_ONCE]
            for grant in self._grants(batch, retry.pause):
                if grant["url"] or grant.get("parts"):
                    self._upload_one(grant, places[grant["path"]], batch, retry)
        return records

    def _publish_once(self, artifact: Artifact, retry: Retry) -> None:
        """Never publishes a path twice: a trainer that saves one step twice must not corrupt the first save."""
        if (artifact.kind, artifact.path) in self._published:
            log.info("artifact_known", kind=artifact.kind, path=artifact.path)
        elif self._publish(artifact, retry):
            self._published.add((artifact.kind, artifact.path))

    def _publish(self, artifact: Artifact, retry: Retry) -> bool:
        try:
            self._send(artifact, retry)
        except (AttemptError, RefusedError) as error:
            log.error("artifact_not_published", kind=artifact.kind, path=artifact.path, error=str(error))
            if artifact.kind == "checkpoint":
                self.problem = error if isinstance(error, AttemptError) else _refused(artifact, error)
            return False
        if artifact.kind == "checkpoint":
            self.problem = None
        return True

    def _send(self, artifact: Artifact, retry: Retry) -> None:
        """Uploads and publishes. Tries twice more if the API reports a missing file."""
        for last in (False, False, True):
            records = self.upload(_files_of(artifact), retry)
            _wait_for_turn(artifact, retry.pause)
            body = {"kind": artifact.kind, "step": artifact.step, "path": artifact.path, "files": records}
            try:
                self._insist("artifacts", {**body, "details": artifact.details}, retry.pause)
                return
            except RefusedError as error:
                if last or error.code != "file_missing":
                    raise

    def _upload_one(self, grant: dict[str, Any], local: Path, batch: list[dict[str, Any]], retry: Retry) -> None:
        links = [grant]

        records = [record for record in batch if record["path"] == grant["path"]]

        def once() -> None:
            if links[0]["url"]:
                url = urljoin(self._api.url, links[0]["url"])
                upload(self._client, local, url, links[0].get("headers") or {}, retry.pause)
            elif links[0].get("parts"):
                self._upload_parts(links[0], local, records[0], retry)

        def expired() -> None:
            links[0] = self._grants(records, retry.pause)[0]

        repeated(f"upload of {grant['path']}", retry, once, expired=expired)

    def _upload_parts(self, link: dict[str, Any], local: Path, record: dict[str, Any], retry: Retry) -> None:
        """Raises LinkExpiredError if the joined parts are not the file: all are sent again, by new links."""

        parts = [*link["parts"]]

        def expired() -> None:
            parts[:] = self._grants([{**record, "upload_id": link["upload_id"]}], retry.pause)[0]["parts"]

        etags = parts_upload(
            self._client,
            local,
            parts,
            check=check_answer,
            repeat=lambda index, send: repeated(
                f"part {parts[index]['number']} of {link['path']}", retry, send, expired=expired
            ),
            timeout=TIMEOUT,
            on_bytes=lambda _: retry.pause(0),
        )
        body = {**record, "upload_id": link["upload_id"], "etags": etags}
        try:
            insist(
                lambda: self._api.post("uploads/complete", body, timeout=JOIN_SECONDS),
                self._backoff_seconds,
                retry.pause,
            )
        except RefusedError as error:
            if error.code not in ("part_missing", "wrong_digest"):
                raise
            raise LinkExpiredError(str(error)) from error

    def _grants(self, records: list[dict[str, Any]], pause: Pause) -> list[dict[str, Any]]:
        grants = self._insist("uploads", {"files": records}, pause)["files"]
        return [{**grant, "parts": [self._absolute(part) for part in grant.get("parts") or ()]} for grant in grants]

    def _absolute(self, part: dict[str, Any]) -> dict[str, Any]:
        return {**part, "url": urljoin(self._api.url, part["url"])}

    def _insist(self, what: str, body: dict[str, Any], pause: Pause) -> dict[str, Any]:
        return insist(lambda: self._api.post(what, body), self._backoff_seconds, pause)


def _refused(artifact: Artifact, error: RefusedError) -> AttemptError:
    return AttemptError(ReasonCode.STORAGE_REFUSED, f"{artifact.path} was refused", str(error))


def _files_of(artifact: Artifact) -> list[tuple[str, Path]]:
    if artifact.staged.is_file():
        return [(artifact.path, artifact.staged)]
    paths = sorted(path for path in artifact.staged.rglob("*") if path.is_file())
    return [(f"{artifact.path}/{path.relative_to(artifact.staged).as_posix()}", path) for path in paths]


def _wait_for_turn(artifact: Artifact, pause: Pause) -> None:
    """Waits until the steps before a checkpoint are sent: a job that resumes from it would otherwise lack them."""
    while artifact.kind == "checkpoint" and not artifact.turn.wait(0.05):
        pause(0)
