"""What a job leaves, brought here whole: adaptors by file and digest, logs piece by piece."""

import json
from pathlib import Path

from cli.atomic import text_write
from cli.errors import CliError
from cli.http import Client, Record
from cli.transfers import OnBytes, file_download

LOG_BYTES = 65_536


def adaptor_write(adaptor: Record, folder: Path, on_bytes: OnBytes = lambda _: None) -> None:
    """Every file with its digest checked; the manifest last, so that its being there means that the rest is whole."""
    for file in adaptor["files"]:
        file_download(file, inside(folder, file["path"]), on_bytes)
    text_write(folder / "manifest.json", json.dumps(adaptor["manifest"], indent=2, ensure_ascii=False) + "\n")


def inside(folder: Path, path: str) -> Path:
    """`folder/path`. Raises CliError where the path would leave the folder."""
    target = (folder / path).resolve()
    if not target.is_relative_to(folder.resolve()):
        raise CliError(f"the API named a file outside of the folder: {path!r}", "Nothing was written there.")
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
