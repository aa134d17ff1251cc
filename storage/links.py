"""The ASGI function that serves the local backend's signed links. Streams both ways; memory use is constant."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from storage.base import PIECE_BYTES, DigestMismatchError, TooLargeError, WrongSizeError
from storage.incoming import Incoming
from storage.local import LocalStorage
from storage.media import disposition, media_type
from storage.ranges import RangeNotSatisfiableError, range_read
from storage.signing import Grant, LinkExpiredError, LinkForgedError, link_read

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SKIPPED_BYTES = 1 << 20
SAFE_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("content-security-policy", "default-src 'none'; sandbox"),
    ("cross-origin-resource-policy", "same-site"),
    ("cache-control", "private, max-age=3600"),
)


class RefusalError(Exception):
    """An answer other than success, in the one error shape."""

    def __init__(self, status: int, code: str, message: str, hint: str = "", headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers or {}
        self.body = {"code": code, "message": message, "hint": hint, "fields": {}}


class ClientGoneError(Exception):
    """The client went away in mid-body; there is nobody to answer."""


def link_app(storage: LocalStorage, *, prefix: str = "/storage/") -> App:
    """The application for every path below `prefix`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            grant = _grant(storage, scope, prefix)
            serve = _put if grant.method == "PUT" else _get
            await serve(storage, grant, scope, receive, send)
        except RefusalError as refusal:
            await _answer(send, refusal.status, json.dumps(refusal.body).encode(), refusal.headers)
        except ClientGoneError:
            return

    return app


def _grant(storage: LocalStorage, scope: Scope, prefix: str) -> Grant:
    assert scope["type"] == "http", f"links are served over http, got {scope['type']}"
    key = str(scope["path"]).removeprefix(prefix)
    try:
        grant = link_read(key, scope["query_string"].decode("latin-1"), secret=storage.secret)
    except LinkForgedError as error:
        raise RefusalError(403, "link_forged", f"Refused: {error}.", "Use the link exactly as it was given.") from None
    except LinkExpiredError as error:
        raise RefusalError(410, "link_expired", f"Refused: {error}.", "Ask the API for a fresh link.") from None
    if scope["method"] != grant.method and (scope["method"], grant.method) != ("HEAD", "GET"):
        message = f"This link is for {grant.method}, not {scope['method']}."
        raise RefusalError(405, "method_not_allowed", message, headers={"allow": grant.method})
    return grant


async def _get(storage: LocalStorage, grant: Grant, scope: Scope, receive: Receive, send: Send) -> None:
    try:
        stat = await asyncio.to_thread(storage.stat, grant.key)
    except (FileNotFoundError, ValueError):
        raise RefusalError(404, "not_found", f"There is no file {grant.key!r}.") from None
    try:
        part = range_read(_header(scope, b"range"), stat.size)
    except RangeNotSatisfiableError as error:
        headers = {"content-range": f"bytes */{stat.size}"}
        raise RefusalError(416, "range_not_satisfiable", str(error), headers=headers) from None
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
    """Reads a piece at a time off the event loop; stops when the client went away."""
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        while not gone.done() and (piece := await asyncio.to_thread(next, pieces, b"")):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    finally:
        gone.cancel()


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
        raise RefusalError(400, "wrong_size", f"Refused: {error}.", "Send the whole file again.") from None
    except DigestMismatchError as error:
        raise RefusalError(
            400, "wrong_digest", f"Refused: {error}.", "Send the file again; it changed on its way."
        ) from None
    except (FileNotFoundError, ValueError) as error:
        raise RefusalError(409, "conflict", f"Refused: {error}.") from None
    await _answer(send, 200, b"{}", {"etag": f'"{digest}"'})


async def _body_write(incoming: Incoming, receive: Receive, limit: int) -> None:
    """Moves the body into the file, a piece at a time off the event loop."""
    waiting, more = bytearray(), True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        waiting += message.get("body", b"")
        more = message.get("more_body", False)
        if len(waiting) >= PIECE_BYTES or not more or len(waiting) > limit:
            try:
                await asyncio.to_thread(incoming.write, bytes(waiting))
            except TooLargeError:
                if more:
                    await _body_skip(receive)
                raise
            waiting.clear()


async def _body_skip(receive: Receive) -> None:
    """Reads a bounded part of a body that is refused: a connection closed before it was read can lose the answer."""
    skipped = 0
    while skipped < SKIPPED_BYTES:
        message = await receive()
        skipped += len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _too_large(what: str) -> RefusalError:
    hint = "The link is for one file of one size; ask for a new link."
    closed = {"connection": "close"}  # or the server would read the rest to its end
    return RefusalError(413, "too_large", f"Refused: {what}.", hint, closed)


async def _answer(send: Send, status: int, body: bytes, headers: dict[str, str]) -> None:
    await _start(send, status, {"content-type": "application/json", "content-length": str(len(body)), **headers})
    await send({"type": "http.response.body", "body": body})


async def _start(send: Send, status: int, headers: dict[str, str]) -> None:
    pairs = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in (*SAFE_HEADERS, *headers.items())]
    await send({"type": "http.response.start", "status": status, "headers": pairs})


def _header(scope: Scope, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")
