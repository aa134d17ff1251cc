"""Transfers files over signed links: downloads resume and are verified, uploads stream. No token of ours is sent."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
from tenacity import RetryCallState, retry_if_exception_type

from foundation.atomic import sync
from foundation.multipart import MissingETagError, file_chunks
from foundation.retry import Pause, repeat
from trainers.contract.errors import ReasonCode
from worker.client.api import AGAIN
from worker.errors import AttemptError
from worker.transfer.files import CHUNK, disk_is_full

Result = TypeVar("Result")
TIMEOUT = httpx.Timeout(60.0, connect=10.0)
EXPIRED = {401, 403, 410}
"""Status codes of a storage for an expired link."""
MAX_REFUSALS = 8
"""Limit of consecutive refusals (4xx) of one transfer, whatever `Retry.attempts` is."""


class TransferError(Exception):
    """A transfer failed but may succeed when repeated."""


class LinkExpiredError(TransferError):
    pass


class TransferRefusedError(TransferError):
    """Status 4xx. It may be temporary when it comes from a gateway, or is S3's 400 RequestTimeout."""


@dataclass(frozen=True)
class RemoteFile:
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Retry:
    attempts: int
    backoff_seconds: float
    pause: Pause


def repeated(what: str, retry: Retry, once: Callable[[], Result], *, expired: Callable[[], None]) -> Result:
    """Calls `once` until it succeeds, with pauses; `expired` requests new links.

    Raises AttemptError(storage_refused | input_corrupt | disk_full).
    """
    refusals = digest_errors = 0

    def attempt() -> Result:
        nonlocal refusals, digest_errors
        retry.pause(0)
        try:
            return once()
        except LinkExpiredError:
            expired()
            raise
        except WrongDigestError:
            digest_errors += 1
            raise
        except (TransferError, MissingETagError, httpx.RequestError) as error:
            refusals = refusals + 1 if isinstance(error, TransferRefusedError) else 0
            raise
        except OSError as error:
            raise disk_failure(error) from error

    def is_final(state: RetryCallState) -> bool:
        number = state.attempt_number
        return number >= retry.attempts or refusals >= MAX_REFUSALS or (digest_errors > 0 and number > 1)

    def failure(state: RetryCallState) -> NoReturn:
        assert state.outcome is not None, "called after an attempt"
        error = state.outcome.exception()
        if isinstance(error, WrongDigestError) and state.attempt_number > 1:
            raise AttemptError(ReasonCode.INPUT_CORRUPT, str(error)) from error
        problem = str(error) if isinstance(error, LinkExpiredError) else f"{type(error).__name__}: {error}"
        raise AttemptError(ReasonCode.STORAGE_REFUSED, f"{what} failed {state.attempt_number} times", problem)

    repeatable = retry_if_exception_type((TransferError, MissingETagError, httpx.RequestError))
    first_seconds, pause = retry.backoff_seconds, retry.pause
    return repeat(attempt, when=repeatable, first_seconds=first_seconds, pause=pause, stop=is_final, on_stop=failure)


def disk_failure(error: OSError) -> Exception:
    """Returns an AttemptError for a full disk, any other error unchanged."""
    if disk_is_full(error):
        return AttemptError(
            ReasonCode.DISK_FULL, f"no room on the worker's disk for {error.filename or 'a file'}", str(error)
        )
    return error


def download(client: httpx.Client, url: str, file: RemoteFile, target: Path, pause: Pause) -> None:
    """Downloads `file` to `target`, resuming a partial download.

    Raises TransferError for what may pass next time (a wrong digest too: the part is thrown away).
    """
    part = target.with_name(target.name + ".part")
    digest = _digest_of_part(part, file.size)
    have = part.stat().st_size if part.exists() else 0
    if have < file.size or file.size == 0:
        headers = {"Range": f"bytes={have}-"} if have else {}
        with client.stream("GET", url, headers=headers, timeout=TIMEOUT) as response:
            if response.status_code == 416:  # what we have is no beginning of it
                part.unlink()
                raise TransferError(f"{file.path}: status 416 for bytes from {have}")
            check_answer(response, file.path)
            if have and response.status_code != 206:
                digest, have = hashlib.sha256(), 0
            with part.open("ab" if have else "wb") as out:
                for chunk in response.iter_raw(CHUNK):
                    pause(0)
                    out.write(chunk)
                    digest.update(chunk)
                out.flush()
                os.fsync(out.fileno())
    _accept(part, digest.hexdigest(), file)
    part.replace(target)
    sync(target.parent)


def upload(client: httpx.Client, path: Path, url: str, headers: dict[str, str], pause: Pause) -> None:
    """Streams `path` to a signed link. Raises TransferError for what may pass next time."""
    size = path.stat().st_size
    content = file_chunks(path, 0, size, lambda _: pause(0))
    response = client.put(url, content=content, headers={**headers, "Content-Length": str(size)}, timeout=TIMEOUT)
    check_answer(response, path.name)


def check_answer(response: httpx.Response, what: str) -> None:
    """Raises LinkExpiredError, TransferRefusedError for any other 4xx, else TransferError, where it is no success."""
    status = response.status_code
    if status in EXPIRED:
        raise LinkExpiredError(f"{what}: status {status}")
    if status >= 500 or status in AGAIN:
        raise TransferError(f"{what}: status {status}")
    if status >= 400:
        raise TransferRefusedError(f"the storage answered {status} for {what}: {_words(response)}")
    if status >= 300:
        raise TransferError(f"{what}: status {status}")


def _words(response: httpx.Response) -> str:
    """The start of an error's body."""
    if not response.is_closed:
        response.read()
    return response.text[:200]


def _digest_of_part(part: Path, size: int) -> Any:
    digest = hashlib.sha256()
    have = part.stat().st_size if part.exists() else 0
    if have > size:
        part.unlink()
    elif have:
        with part.open("rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    return digest


def _accept(part: Path, sha256: str, file: RemoteFile) -> None:
    size = part.stat().st_size
    if size < file.size:
        raise TransferError(f"{file.path}: broke off at {size} of {file.size} bytes")
    if size != file.size or sha256 != file.sha256:
        part.unlink()
        raise WrongDigestError(f"{file.path}: expected {file.size} bytes {file.sha256}, received {size} bytes {sha256}")


class WrongDigestError(TransferError):
    """The download is complete but does not match its recorded size or digest."""
