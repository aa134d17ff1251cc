"""Limits of requests before Django: the size of a body, and how many of one kind are served at once.

Django would first write all of a large body to the disk. Every request has a thread, and Python switches threads every
few milliseconds: of fifty at once each would hold the database's lock fifty times as long.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from api.errors import Problem

Message = Mapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]
Header = tuple[bytes, bytes]
CLOSE: Header = (b"connection", b"close")


@dataclass(frozen=True)
class BodyLimit:
    """The limits of one request body."""

    max_bytes: int
    max_values: int
    """JSON values, at any depth."""


PASSWORD = BodyLimit(16 << 10, 100)
"""Routes that anybody may call with a password."""
DEFAULT = BodyLimit(1 << 20, 20_000)
LISTS = BodyLimit(8 << 20, 500_000)
"""A list of 50,000 files, 10,000 captions, a batch of 500 events. Files themselves go to signed links."""
ROUTES = (
    (re.compile(r"/api/v1/(auth/|me/password)|/admin/login/"), PASSWORD),
    (re.compile(r"/api/v1/datasets/[^/]+/(uploads|captions)$|/api/v1/models/[^/]+/uploads$|/internal/v1/"), LISTS),
)
"""The first pattern that matches the start of the path applies."""


class BodyTooLargeError(Exception):
    """The body is longer than its Content-Length, or than allowed without one."""


def body_limit_for(path: str) -> BodyLimit:
    return next((limit for pattern, limit in ROUTES if pattern.match(path)), DEFAULT)


def body_limited(app: App) -> App:
    """`app` behind a counter of body bytes: responds 413 by Content-Length, or as soon as the limit is exceeded."""

    async def limited(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        limit = body_limit_for(scope["path"]).max_bytes
        if _content_length(scope) > limit:
            await problem_send(send, _too_large(limit), CLOSE)
            return
        started, count = False, 0

        async def counted() -> Message:
            nonlocal count
            message: Message = await receive()
            count += len(message.get("body", b""))
            if count > limit:
                raise BodyTooLargeError
            return message

        async def observed(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await app(scope, counted, observed)
        except BodyTooLargeError:
            if not started:
                await problem_send(send, _too_large(limit), CLOSE)

    return limited


async def problem_send(send: Send, problem: Problem, *headers: Header) -> None:
    """Sends an error response from outside of Django, in the schema of all errors."""
    data = json.dumps(problem.body()).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *headers]
    await send({"type": "http.response.start", "status": problem.status, "headers": start})
    await send({"type": "http.response.body", "body": data})


def _content_length(scope: Any) -> int:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    return int(value) if value.isdigit() else 0


def _too_large(limit: int) -> Problem:
    message = f"The body is larger than {limit} bytes, the limit of this address."
    return Problem("too_large", message, status=413, hint="Send files to the signed links that `uploads` answers.")


REPORTS = re.compile(r"/internal/v1/(workers/heartbeat|attempts/[^/]+/(heartbeat|events|log))$")
STREAMS = re.compile(r"/api/v1/jobs/[^/]+/stream$")


def in_turns(app: App, routes: re.Pattern[str], limit: int) -> App:
    """`app` with at most `limit` requests of `routes` at once in each event loop, first come, first served.

    A turn begins with the complete body and ends with the start of the response, so that slow clients hold none. Only
    routes of pure database work are limited: a slow storage must not delay heartbeats. Kinds are independent: after a
    restart hundreds of streams reconnect at once without delaying reports.
    """
    turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def take_turns(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not routes.fullmatch(scope["path"]):
            await app(scope, receive, send)
            return
        turn = _Turn(turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(limit)))
        try:
            await app(scope, turn.receiving(receive), turn.sending(send))
        finally:
            turn.end()

    return take_turns


class _Turn:
    """The turn of one request, which begins and ends once."""

    def __init__(self, semaphore: asyncio.Semaphore) -> None:
        self._semaphore = semaphore
        self._begun = self._ended = False

    def receiving(self, receive: Receive) -> Receive:
        async def wrapped() -> Any:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body") and not self._begun:
                await self._semaphore.acquire()
                self._begun = True
            return message

        return wrapped

    def sending(self, send: Send) -> Send:
        async def wrapped(message: Any) -> None:
            self.end()
            await send(message)

        return wrapped

    def end(self) -> None:
        if self._begun and not self._ended:
            self._ended = True
            self._semaphore.release()
