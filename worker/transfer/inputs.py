"""Fills `in/` of one attempt: links into the cache, and the checkpoint as files of its own."""

import errno
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urljoin

import httpx

from trainers.contract.errors import ReasonCode
from worker.client.api import AttemptApi, insist
from worker.client.payloads import InputPart
from worker.errors import AttemptError
from worker.transfer.cache import Fetch, InputCache, check_listing
from worker.transfer.transfer import RemoteFile, Retry, disk_failure, download, repeated

OWN = "checkpoint"
"""The input that belongs to one job alone, so it never enters the cache."""


def cached_inputs(inputs: Path) -> list[Path]:
    """Where the links in `inputs` lead: the cache's folders that the attempt may read."""
    return [path.resolve() for path in (*inputs.glob("*"), *inputs.glob("*/*")) if path.is_symlink()]


class InputFetcher:
    """`copies`: whether files are linked into in/ one by one, for a trainer that may not reach the cache."""

    def __init__(self, api: AttemptApi, client: httpx.Client, cache: InputCache, retry: Retry, *, copies: bool) -> None:
        self._copies = copies
        self._api = api
        self._client = client
        self._cache = cache
        self._retry = retry

    def fill(self, place: str, input_part: InputPart, inputs: Path, held: ExitStack) -> None:
        """Puts `input_part` at in/<place>; what `held` holds keeps it in the cache. Raises AttemptError."""
        links = {file.path: file.url for file in input_part.files}

        def fetch(file: RemoteFile, target: Path) -> None:
            self._fetch(place, links, file, target)

        (inputs / place).parent.mkdir(parents=True, exist_ok=True)
        try:
            if place == OWN:
                self._fill_checkpoint(input_part, inputs / place, fetch)
            else:
                folder = held.enter_context(self._cache.held(input_part, fetch, self._retry.pause))
                if self._copies:
                    _link_files(folder, inputs / place)
                else:
                    (inputs / place).symlink_to(folder)
        except OSError as error:
            raise disk_failure(error) from error

    def _fill_checkpoint(self, input_part: InputPart, folder: Path, fetch: Fetch) -> None:
        """One whose bytes are not those that were published is told apart: the job has an older one."""
        try:
            check_listing(input_part)
            for part in input_part.files:
                target = folder / part.path
                target.parent.mkdir(parents=True, exist_ok=True)
                fetch(RemoteFile(part.path, part.size, part.sha256), target)
        except AttemptError as error:
            if error.reason.code != ReasonCode.INPUT_CORRUPT:
                raise
            raise AttemptError(ReasonCode.CHECKPOINT_DAMAGED, error.reason.message, error.reason.detail) from error

    def _fetch(self, place: str, links: dict[str, str], file: RemoteFile, target: Path) -> None:
        def once() -> None:
            url = urljoin(self._api.url, links[file.path])
            download(self._client, url, file, target, self._retry.pause)

        def expired() -> None:
            path = f"{place}/{file.path}"
            fresh = insist(
                lambda: self._api.post("links", {"paths": [path]}), self._retry.backoff_seconds, self._retry.pause
            )
            links[file.path] = fresh["files"][0]["url"]

        repeated(f"fetching {place}/{file.path}", self._retry, once, expired=expired)


def _link_files(source: Path, target: Path) -> None:
    """The tree anew, its files as hard links: the same bytes under a path of the attempt's own."""
    for folder, _, names in os.walk(source):
        place = target / Path(folder).relative_to(source)
        place.mkdir(parents=True)
        for name in names:
            try:
                os.link(Path(folder, name), place / name)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EMLINK):
                    raise
                shutil.copyfile(Path(folder, name), place / name)
