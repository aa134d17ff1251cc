"""One large file over a signed link for each of its parts: a part that breaks off is sent again alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from worker.client.api import Pause
from worker.transfer.files import CHUNK
from worker.transfer.transfer import TIMEOUT, Retry, TransferError, check_answer, repeated

Link = dict[str, Any]
"""{path, upload_id, parts: [{number, url, size}]}"""


def upload_parts(client: httpx.Client, local: Path, link: Link, retry: Retry, fresh: Callable[[], Link]) -> list[str]:
    """Sends every part of `local`; returns their ETags in order. `fresh`: the same upload with new links.

    Raises AttemptError where a part could not be sent.
    """
    parts, etags, start = list(link["parts"]), list[str](), 0
    for index, part in enumerate(link["parts"]):

        def once(index: int = index, start: int = start) -> None:
            etags.append(_send(client, local, start, parts[index], retry.pause))

        def expired() -> None:
            parts[:] = fresh()["parts"]

        repeated(f"part {part['number']} of {link['path']}", retry, once, expired=expired)
        start += part["size"]
    return etags


def _send(client: httpx.Client, local: Path, start: int, part: dict[str, Any], pause: Pause) -> str:
    headers = {"Content-Length": str(part["size"])}
    with local.open("rb") as file:
        file.seek(start)
        response = client.put(part["url"], content=_pieces(file, part["size"], pause), headers=headers, timeout=TIMEOUT)
    check_answer(response, f"part {part['number']} of {local.name}")
    etag = str(response.headers.get("ETag", "")).strip('"')
    if not etag:
        raise TransferError(f"the storage named no ETag for part {part['number']} of {local.name}")
    return etag


def _pieces(file: BinaryIO, left: int, pause: Pause) -> Iterator[bytes]:
    while left > 0 and (chunk := file.read(min(CHUNK, left))):
        pause(0)
        left -= len(chunk)
        yield chunk
