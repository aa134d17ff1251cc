"""Django behind ASGI, with one trip from the event loop to a thread, and threads that stay for the next request.

Django starts a thread for each request and another that waits for its end, and goes back to the event loop between its
middleware and its view. Each trip costs a switch of Python's lock, and a new thread has no connection to SQLite, whose
opening (the schema is parsed, seventy functions are registered) costs more than most requests.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import HttpRequest, HttpResponseBase

MAX_IDLE_THREADS = 16
"""More end with their requests. On SQLite each keeps a connection, with at most 2 MiB of pages."""


class StayingThreadsHandler(ASGIHandler):
    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self._idle: list[ThreadPoolExecutor] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """When `handle` returns, the thread is done, also with a request whose client went away: Django sends its last
        signal in it."""
        thread = self._idle.pop() if self._idle else ThreadPoolExecutor(1, thread_name_prefix="request")
        try:
            async with ThreadSensitiveContext(executor=thread):
                await self.handle(scope, receive, send)
        finally:
            if len(self._idle) < MAX_IDLE_THREADS:
                self._idle.append(thread)
            else:
                thread.submit(connections.close_all)
                thread.shutdown(wait=False)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        return await sync_to_async(self.get_response)(request)
