"""How long a connection may take to send a request, and which framing is refused: what uvicorn leaves open."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.errors import Problem
from api.server.body_limit import App, Receive, Send
from api.server.front import problem_send

HEADER_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of its headers."""
KEEP_ALIVE_SECONDS = 75
"""How long a connection stays open between two requests: longer than clients keep theirs (httpx 5 s, nginx 60 s). Where
both times are equal, a client's next request meets our close, and a POST is not sent again by itself."""
BODY_SILENT_SECONDS = 30.0
"""Longest pause within a body."""
BODY_BYTES_PER_SECOND = 1024
"""Least average rate of a body, after the first BODY_SILENT_SECONDS."""


class TimedProtocol(H11Protocol):
    """Closes connections whose request does not arrive; an answer may take as long as it takes (event streams)."""

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
    """`app` without requests whose end two programs could see at two places (RFC 9112, 6.1)."""

    async def checked(scope: Any, receive: Receive, send: Send) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else set()
        if {b"content-length", b"transfer-encoding"} <= names:
            message = "The request has both Content-Length and Transfer-Encoding."
            await problem_send(
                send, Problem("bad_request", message, hint="Send one of them."), (b"connection", b"close")
            )
        else:
            await app(scope, receive, send)

    return checked
