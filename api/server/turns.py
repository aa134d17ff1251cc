"""Limits the concurrent requests of one kind, first come, first served.

Every request has a thread, and Python switches threads every few milliseconds: of fifty at once each would hold the
database's lock fifty times as long. A turn begins with the complete body and ends with the start of the response, so
that slow clients hold none. Only routes of pure database work are limited: a slow storage must not delay heartbeats.
Kinds are independent: after a restart hundreds of streams reconnect at once without delaying reports.
"""

import asyncio
import re
from typing import Any
from weakref import WeakKeyDictionary

from api.server.body_limit import App, Receive, Send

REPORTS = re.compile(r"/internal/v1/(workers/heartbeat|attempts/[^/]+/(heartbeat|events|log))$")
STREAMS = re.compile(r"/api/v1/jobs/[^/]+/stream$")


def in_turns(app: App, routes: re.Pattern[str], limit: int) -> App:
    """`app` with at most `limit` requests of `routes` at once in each event loop."""
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
