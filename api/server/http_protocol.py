"""What uvicorn leaves open: time limits of requests, and requests that are rejected before Django."""

import asyncio
from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import unquote_to_bytes

import h11
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.environment import Network
from api.errors import Problem
from api.server.request_limits import CLOSE, App, Receive, Send, problem_send

HEADER_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of its headers."""
KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than in clients (httpx 5 s, nginx 60 s), so that no request arrives
while we close; clients do not repeat a POST by themselves."""
BODY_SILENT_SECONDS = 30.0
"""Longest pause within a body."""
BODY_BYTES_PER_SECOND = 1024
"""Least average rate of a body, after the first BODY_SILENT_SECONDS."""
FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"forwarded")


class TimedProtocol(H11Protocol):
    """Closes connections whose request does not arrive in time; responses have no limit (event streams)."""

    header_seconds = HEADER_SECONDS
    body_silent_seconds = BODY_SILENT_SECONDS
    _timer: asyncio.TimerHandle | None = None
    _body_started: float | None = None
    _body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn types it
        super().connection_made(transport)
        self._arm(self.header_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.transport.is_closing():
            self._disarm()
        elif self.conn.their_state is h11.SEND_BODY:
            self._body_received(len(data))
        elif self.conn.their_state is h11.IDLE and self.conn.our_state is h11.IDLE:
            if self._timer is None or self._body_started is not None:
                self._body_started = None
                self._arm(self.header_seconds)
        else:
            self._body_started = None
            self._disarm()

    def on_response_complete(self) -> None:
        self._body_started = None
        self._disarm()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def _body_received(self, count: int) -> None:
        now = self.loop.time()
        if self._body_started is None:
            self._body_started, self._body_bytes = now, 0
        self._body_bytes += count
        allowed = self.body_silent_seconds + self._body_bytes / BODY_BYTES_PER_SECOND
        self._arm(max(0.0, min(self.body_silent_seconds, self._body_started + allowed - now)))

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._expire, seconds)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, seconds: float) -> None:
        self._timer = None
        if self.flow.read_paused:  # the application is the slow one
            if self._body_started is not None:
                self._body_started += seconds
            self._arm(seconds)
        else:
            self.transport.abort()


def framing_checked(app: App) -> App:
    """`app` behind a check for ambiguous framing, which enables request smuggling (RFC 9112, 6.1)."""

    async def checked(scope: Any, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            message = "The request has both Content-Length and Transfer-Encoding."
            await problem_send(send, Problem("bad_request", message, hint="Send one of them."), CLOSE)
        else:
            await app(scope, receive, send)

    return checked


def null_characters_rejected(app: App) -> App:
    """`app` behind a check of path and query: no database can store a null character."""

    async def checked(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and ("\0" in scope["path"] or b"\0" in unquote_to_bytes(scope["query_string"])):
            problem = Problem("bad_address", "The address has a null character.", hint="Remove %00 from it.")
            await problem_send(send, problem)
        else:
            await app(scope, receive, send)

    return checked


def proxied(app: App, trusted: Sequence[Network]) -> App:
    """`app` with the client and scheme that trusted proxies forwarded.

    uvicorn's middleware leaves the headers of untrusted peers in place, so they are removed once it has read them:
    nothing below can trust them by mistake.
    """

    async def without_forwarded(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"] if name not in FORWARDED]
            scope = {**scope, "headers": headers}
        await app(scope, receive, send)

    middleware: Any = ProxyHeadersMiddleware(without_forwarded, [str(network) for network in trusted])
    return cast(App, middleware)
