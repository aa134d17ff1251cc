"""A client of a Hugging Face Hub: lists the files of a revision, and downloads one, resuming where it stopped.

huggingface_hub itself restarts a broken download in the next process; its `http_get` resumes at a given size.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

from huggingface_hub import HfApi, constants, get_hf_file_metadata, get_session, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is httpx2's; no client is imported here
    HfHubHTTPError,
    HTTPError,
    RevisionNotFoundError,
)
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils.tqdm import disable_progress_bars

from foundation.digests import sha256_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.addresses import origin_of
from trainers.contract.params.fetch import HUB
from trainers.core.hub.outgoing import AddressRefusedError, Guard, guarded

BLOCK_BYTES = 1 << 20
SERVER_ERROR = 500
RepoType = Literal["model", "dataset"]


@dataclass(frozen=True)
class Source:
    endpoint: str
    repo: str
    repo_type: RepoType
    revision: str

    def __str__(self) -> str:
        return f"{self.repo}@{self.revision} on {self.endpoint}"


@dataclass(frozen=True)
class HubFile:
    path: str
    size: int
    sha256: str
    """Of large files; empty for those that git itself stores."""
    blob: str
    """git's SHA-1 of the others."""


@contextmanager
def hub_session(source: Source) -> Iterator[None]:
    """Within the block this process connects only to that Hub and the public internet, and errors are Reasons.

    A Hub other than the well-known one was listed by the operator, so it may be http or lie in a private network.
    """
    guard = Guard(() if source.endpoint == HUB else (origin_of(source.endpoint),))
    constants.HF_HUB_DISABLE_XET = True  # its own sockets, in Rust, which no guard of ours sees
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK_BYTES  # at most this much is lost when a connection breaks
    disable_progress_bars()
    hooks = get_session().event_hooks["request"]
    check = lambda request: guard.url(str(request.url))  # noqa: E731  removed by identity below
    hooks.append(check)
    try:
        with guarded(guard), _errors_mapped(source):
            yield
    finally:
        hooks.remove(check)


def hub_files(source: Source) -> tuple[str, list[HubFile]]:
    """The commit that the revision resolves to now, and its files."""
    api = HfApi(endpoint=source.endpoint, token=_token())
    info = api.model_info if source.repo_type == "model" else api.dataset_info
    digest = info(source.repo, revision=source.revision, files_metadata=True)
    files = []
    for entry in digest.siblings or ():
        sha256 = entry.lfs.sha256 if entry.lfs else ""
        files.append(HubFile(entry.rfilename, entry.size or 0, sha256, entry.blob_id or ""))
    return str(digest.sha), files


def file_fetch(source: Source, commit: str, file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Completes `part`, resuming after what it already holds. `on_bytes` is called with its size as it grows."""
    if part.exists() and part.stat().st_size > file.size:
        part.unlink()
    url = hf_hub_url(source.repo, file.path, repo_type=source.repo_type, revision=commit, endpoint=source.endpoint)
    digest = get_hf_file_metadata(url, token=_token(), endpoint=source.endpoint)
    headers = {**build_hf_headers(token=_token_for(source, digest.location)), "Accept-Encoding": "identity"}
    with part.open("ab") as raw:
        counted = cast(BinaryIO, _Counted(raw, file.size, on_bytes))
        http_get(digest.location, counted, resume_size=raw.tell(), headers=headers, expected_size=file.size)
    _digest_check(file, part)


class _Counted:
    """A file that reports its size after each write and refuses to grow beyond `limit`."""

    def __init__(self, raw: BinaryIO, limit: int, on_bytes: Callable[[int], None]) -> None:
        self._raw = raw
        self._limit = limit
        self._on_bytes = on_bytes

    def write(self, data: bytes) -> int:
        if self._raw.tell() + len(data) > self._limit:
            message = f"The Hub sends more than the {self._limit} bytes that it announced."
            raise TrainerError(ReasonCode.INPUT_CORRUPT, message)
        written = self._raw.write(data)
        self._on_bytes(self._raw.tell())
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def _digest_check(file: HubFile, part: Path) -> None:
    digest = sha256_of(part) if file.sha256 else _git_sha1(part)
    if digest != (file.sha256 or file.blob):
        part.unlink()
        message = f"{file.path} arrived with digest {digest}, the Hub announced {file.sha256 or file.blob}."
        raise TrainerError(ReasonCode.INPUT_CORRUPT, message)


def _git_sha1(path: Path) -> str:
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _token() -> str | Literal[False]:
    """False: not even one from the home folder."""
    return os.environ.get("HF_TOKEN") or False


def _token_for(source: Source, url: str) -> str | Literal[False]:
    """Only the Hub itself gets the token; the URLs that it redirects to are signed."""
    try:
        same_origin = origin_of(url) == origin_of(source.endpoint)
    except ValueError:
        same_origin = False  # the guard refuses it when it is asked for
    return _token() if same_origin else False


@contextmanager
def _errors_mapped(source: Source) -> Iterator[None]:
    try:
        yield
    except AddressRefusedError as error:
        raise TrainerError(ReasonCode.ADDRESS_REFUSED, f"{source}: {error}.") from None
    except RevisionNotFoundError:
        message = f"{source.repo} has no revision {source.revision!r}."
        raise TrainerError(ReasonCode.REVISION_NOT_FOUND, message) from None
    except HfHubHTTPError as error:
        raise _refusal(source, error.response.status_code) from None
    except (HTTPError, OSError) as error:
        if getattr(error, "errno", None) is not None:
            raise
        raise TrainerError(ReasonCode.HUB_UNREACHABLE, f"{source}: {type(error).__name__}: {error}") from None


def _refusal(source: Source, status: int) -> TrainerError:
    if status in (401, 403):
        with_what = "with the token that the job has" if _token() else "without a token"
        return TrainerError(ReasonCode.REPO_GATED, f"{source} cannot be read {with_what} (the Hub answers {status}).")
    if status >= SERVER_ERROR or status == 429:
        return TrainerError(ReasonCode.HUB_UNREACHABLE, f"{source}: the Hub answers {status}.")
    return TrainerError(
        ReasonCode.REPO_NOT_FOUND, f"There is no {source.repo_type} {source} (the Hub answers {status})."
    )
