"""The ASGI app that serves signed links of the local backend, streaming with constant memory use."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from storage.base import PIECE_BYTES, DigestMismatchError, TooLargeError, WrongSizeError
from storage.incoming import Incoming
from storage.local import LocalStorage
from storage.media import disposition, media_type
from storage.signing import Grant, LinkExpiredError, LinkForgedError, link_read

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SKIPPED_BYTES = 1 << 20
ONE_RANGE = re.compile(r"bytes=(\d{0,20})-(\d{0,20})")
SAFE_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; sandbox"),
    ("cross-origin-resource-policy", "same-site"),
    ("cache-control", "private, max-age=3600"),
)


class LinkError(Exception):
    """An error response, in the schema of all errors."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"code": code, "message": message, "hint": hint, "fields": {}}


class ClientGoneError(Exception):
    """The client has disconnected within the body."""


def link_app(storage: LocalStorage, *, prefix: str = "/storage/") -> App:
    """The app for all paths below `prefix`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            grant = _grant(storage, scope, prefix)
            serve = _put if grant.method == "PUT" else _get
            await serve(storage, grant, scope, receive, send)
        except LinkError as error:
            await _respond(send, error.status, json.dumps(error.body).encode(), error.headers)
        except ClientGoneError:
            return

    return app


def _grant(storage: LocalStorage, scope: Scope, prefix: str) -> Grant:
    assert scope["type"] == "http", f"links are served over http, got {scope['type']}"
    key = str(scope["path"]).removeprefix(prefix)
    try:
        grant = link_read(key, scope["query_string"].decode("latin-1"), secret=storage.secret)
    except LinkForgedError as error:
        raise LinkError(403, "link_forged", f"Refused: {error}.", "Use the link exactly as it was given.") from None
    except LinkExpiredError as error:
        raise LinkError(410, "link_expired", f"Refused: {error}.", "Ask the API for a fresh link.") from None
    if scope["method"] != grant.method and (scope["method"], grant.method) != ("HEAD", "GET"):
        message = f"This link is for {grant.method}, not {scope['method']}."
        raise LinkError(405, "method_not_allowed", message, headers={"allow": grant.method})
    return grant


async def _get(storage: LocalStorage, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        stat = await asyncio.to_thread(storage.stat, grant.key)
    except (FileNotFoundError, ValueError):
        raise LinkError(404, "not_found", f"There is no file {grant.key!r}.") from None
    try:
        part = range_read(_header(scope, b"range"), stat.size)
    except RangeNotSatisfiableError as error:
        headers = {"content-range": f"bytes */{stat.size}"}
        raise LinkError(416, "range_not_satisfiable", str(error), headers=headers) from None
    start, length = part or (0, stat.size)
    kind = media_type(grant.key, b"".join(storage.open_range(grant.key, 0, 64)))
    headers = {
        "content-type": kind,
        "content-length": str(length),
        "content-disposition": disposition(kind, grant.filename or grant.key.rsplit("/", 1)[-1]),
        "accept-ranges": "bytes",
        "etag": f'"{stat.sha256}"',
        **({"content-range": f"bytes {start}-{start + length - 1}/{stat.size}"} if part else {}),
    }
    await _start(send, 206 if part else 200, headers)
    if scope["method"] == "GET":
        await _body_send(storage.open_range(grant.key, start, length), receive, send)
    await send({"type": "http.response.body", "body": b""})


async def _body_send(pieces: Iterator[bytes], receive: Receive, send: Send) -> None:
    """Reads a piece at a time in a thread; stops when the client has disconnected."""
    disconnected = asyncio.ensure_future(_disconnected(receive))
    try:
        while not disconnected.done() and (piece := await asyncio.to_thread(next, pieces, b"")):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        disconnected.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _put(storage: LocalStorage, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
    assert grant.size is not None, "a PUT link without a size was signed"
    announced = _header(scope, b"content-length")
    if announced.isdigit() and int(announced) > grant.size:
        await _body_skip(receive)
        raise _too_large(f"expected {grant.size} bytes for {grant.key}, got {announced}")
    try:
        with storage.incoming(grant.key, size=grant.size, sha256=grant.sha256, part=grant.part or "") as incoming:
            await _body_write(incoming, receive, grant.size)
            await asyncio.to_thread(incoming.commit if grant.part else lambda: storage.commit(grant.key, incoming))
            digest = incoming.digest
    except TooLargeError as error:
        raise _too_large(str(error)) from None
    except WrongSizeError as error:
        raise LinkError(400, "wrong_size", f"Refused: {error}.", "Send the whole file again.") from None
    except DigestMismatchError as error:
        raise LinkError(
            400, "wrong_digest", f"Refused: {error}.", "Send the file again; it changed on its way."
        ) from None
    except (FileNotFoundError, ValueError) as error:
        raise LinkError(409, "conflict", f"Refused: {error}.") from None
    await _respond(send, 200, b"{}", {"etag": f'"{digest}"'})


async def _body_write(incoming: Incoming, receive: Receive, limit: int) -> None:
    """Writes the body to the file, a piece at a time in a thread."""
    pending, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        pending += message.get("body", b"")
        more = message.get("more_body", False)
        if len(pending) >= PIECE_BYTES or not more or len(pending) > limit:
            try:
                await asyncio.to_thread(incoming.write, bytes(pending))
            except TooLargeError:
                if more:
                    await _body_skip(receive)
                raise
            pending.clear()


async def _body_skip(receive: Receive) -> None:
    """Reads a limited part of a rejected body: closing the connection before can lose the response."""
    skipped = 0
    while skipped < SKIPPED_BYTES:
        message = await receive()
        skipped += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _too_large(message: str) -> LinkError:
    hint = "The link is for one file of one size; ask for a new link."
    headers = {"connection": "close"}  # otherwise the server would read all of the rest
    return LinkError(413, "too_large", f"Refused: {message}.", hint, headers)


async def _respond(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    await _start(send, status, {"content-type": "application/json", "content-length": str(len(body)), **headers})
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (*SAFE_HEADERS, *headers.items())]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


class RangeNotSatisfiableError(ValueError):
    """The range starts after the end."""


def range_read(header: str, size: int) -> tuple[int, int] | None:
    """(start, length) of one range (RFC 9110, 14.1.2) within a file of `size` bytes, or None for the complete file.

    Other values of the header select the complete file, as the RFC allows.
    """
    match = ONE_RANGE.fullmatch(header.strip())
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if not first:
        length = min(int(last), size)
        start = size - length
    else:
        start = int(first)
        length = min(int(last), size - 1) - start + 1 if last else size - start
        if last and int(last) < start:
            return None
    if length <= 0:
        raise RangeNotSatisfiableError(f"the file has {size} bytes; {header} starts behind its end")
    return start, length
