"""Uploads a large file over one signed link per part; a part that breaks off is sent again alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

CHUNK_BYTES = 1 << 20
Part = dict[str, Any]
"""{number, url, size in bytes}"""
OnBytes = Callable[[int], None]
"""Called with the size of each chunk that is about to be sent; may raise to abort the upload."""


class MissingETagError(Exception):
    """The storage accepted a part but did not name its ETag."""


def parts_upload(
    client: httpx.Client,
    path: Path,
    parts: list[Part],
    *,
    check: Callable[[httpx.Response, str], object],
    repeat: Callable[[int, Callable[[], str]], str],
    timeout: httpx.Timeout,
    on_bytes: OnBytes = lambda _: None,
) -> list[str]:
    """Sends the parts of `path` in order and returns their ETags, without quotes.

    `check(response, what)` raises where the storage refused. `repeat(index, send)` calls `send` until it succeeds; it
    may replace `parts[index]` when a link has expired.
    """
    etags, start = list[str](), 0
    for index, part in enumerate(list(parts)):

        def send(index: int = index, start: int = start) -> str:
            part = parts[index]
            what = f"part {part['number']} of {path.name}"
            content = file_chunks(path, start, part["size"], on_bytes)
            headers = {"Content-Length": str(part["size"])}
            response = client.put(part["url"], content=content, headers=headers, timeout=timeout)
            check(response, what)
            return _etag(response, what)

        etags.append(repeat(index, send))
        start += part["size"]
    return etags


def _etag(response: httpx.Response, what: str) -> str:
    etag = str(response.headers.get("ETag", "")).strip('"')
    if not etag:
        raise MissingETagError(f"the storage named no ETag for {what}")
    return etag


def file_chunks(path: Path, start: int, size: int, on_bytes: OnBytes) -> Iterator[bytes]:
    """`size` bytes of the file from `start` on; fewer where the file ends before."""
    with path.open("rb") as file:
        file.seek(start)
        while size > 0 and (chunk := file.read(min(CHUNK_BYTES, size))):
            size -= len(chunk)
            on_bytes(len(chunk))
            yield chunk
