"""Downloads: files by signed links, whole and with their SHA-256 or not at all; adaptors, artifacts, logs."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import httpx

from cli.errors import CliError
from cli.http import Client, Record, checked, reachable
from foundation.atomic import text_write
from foundation.digests import sha256_of
from foundation.multipart import CHUNK_BYTES, OnBytes

LOG_BYTES = 65_536
TIMEOUT = httpx.Timeout(60.0, connect=5.0)


def adaptor_write(adaptor: Record, folder: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Downloads every file and verifies its digest; the manifest last, so that its presence means a complete copy."""
    for file in adaptor["files"]:
        file_download(file, inside(folder, file["path"]), on_bytes)
    text_write(folder / "manifest.json", json.dumps(adaptor["manifest"], indent=2, ensure_ascii=False) + "\n")


def file_download(link: Record, target: Path, on_bytes: OnBytes = lambda _: None) -> Path:
    """Fetches `link` {url, sha256} to `target`, whole and with the right digest or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    try:
        received = fetch(link["url"], part, on_bytes)
        if received != link["sha256"]:
            raise CliError(f"{target.name}: expected SHA-256 {link['sha256']}, received {received}", "Try again.")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def fetch(url: str, part: Path, on_bytes: OnBytes) -> str:
    """Streams `url` into `part`; returns the SHA-256 of what came."""
    digest = hashlib.sha256()
    with reachable(url), httpx.stream("GET", url, timeout=TIMEOUT) as response, part.open("wb") as file:
        for block in checked(response).iter_bytes(CHUNK_BYTES):
            file.write(block)
            digest.update(block)
            on_bytes(len(block))
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def inside(folder: Path, path: str) -> Path:
    """`folder/path`. Raises CliError where the path would leave the folder."""
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise CliError(f"the API named a file outside of the folder: {path!r}", "Nothing was written there.")
    return target


def samples_of(client: Client, job: str, **query: Any) -> list[Record]:
    """Every image that the job produced, with its link."""
    return list(client.pages(f"jobs/{job}/samples", **query))


def artifacts_write(artifacts: list[Record], folder: Path) -> list[Path]:
    """Every file of them below `folder`, under its own path, with its digest checked."""
    files = [file for artifact in artifacts for file in artifact["files"]]
    return [file_download(file, inside(folder, file["path"])) for file in files]


def job_write(job: Record, folder: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """`job` {spec, inputs} as a trainer reads it: spec.json, written last, and in/. A file that is there stays."""
    for place, part in job["inputs"].items():
        for file in part["files"]:
            target = inside(folder / "in", f"{place}/{file['path']}")
            if not target.exists() or sha256_of(target) != file["sha256"]:
                file_download(file, target, on_bytes)
    (folder / "in").mkdir(parents=True, exist_ok=True)
    text_write(folder / "spec.json", json.dumps(job["spec"], indent=2, ensure_ascii=False) + "\n")


def response_write(client: Client, path: str, target: Path) -> Path:
    """The body of a GET, streamed; a name that is there stays as it was until the whole body came."""
    part = target.with_name(f".{target.name}.part")
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with reachable(client.login.url), client.http.stream("GET", path) as response, part.open("wb") as file:
            for piece in checked(response).iter_bytes(CHUNK_BYTES):
                file.write(piece)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return target


def job_log(client: Client, job: str) -> str:
    """The whole log, piece by piece."""
    pieces: list[bytes] = []
    offset = 0
    while True:
        answer = client.request("GET", f"jobs/{job}/log", params={"offset": offset, "limit": LOG_BYTES})
        pieces.append(answer.content)
        offset += len(answer.content)
        if not answer.content or offset >= int(answer.headers.get("X-Log-Size", offset)):
            return b"".join(pieces).decode("utf-8", "replace")
