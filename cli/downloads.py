"""Downloads of a job's results: adaptors with verified digests, logs in chunks."""

import json
from pathlib import Path
from typing import Any

from cli.errors import CliError
from cli.http import Client, Record, checked, reachable
from cli.transfers import file_download
from foundation.atomic import text_write
from foundation.digests import sha256_of
from foundation.multipart import CHUNK_BYTES, OnBytes

LOG_BYTES = 65_536


def adaptor_write(adaptor: Record, folder: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Downloads every file and verifies its digest; the manifest last, so that its presence means a complete copy."""
    for file in adaptor["files"]:
        file_download(file, inside(folder, file["path"]), on_bytes)
    text_write(folder / "manifest.json", json.dumps(adaptor["manifest"], indent=2, ensure_ascii=False) + "\n")


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
