"""Django behind ASGI with one switch from the event loop to a thread per request, and threads that are reused.

Django starts one thread for each request and another one that waits for its end, and returns to the event loop between
middleware and view. Each switch costs a handover of the interpreter's lock, and a new thread has no connection to
SQLite; opening one (parsing the schema, registering seventy functions) costs more than most requests.
"""

from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from typing import Any

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.base import BaseHandler
from django.db import connections
from django.http import HttpRequest, HttpResponseBase

MAX_IDLE_THREADS = 16
"""Further threads end with their requests. On SQLite each holds a connection with at most 2 MiB of pages."""


class Threads:
    """Idle threads. Each is an executor of one thread, as `ThreadSensitiveContext` expects."""

    def __init__(self) -> None:
        self.idle: list[ThreadPoolExecutor] = []

    def take(self) -> ThreadPoolExecutor:
        return self.idle.pop() if self.idle else ThreadPoolExecutor(1, thread_name_prefix="request")

    def give(self, thread: ThreadPoolExecutor) -> None:
        if len(self.idle) < MAX_IDLE_THREADS:
            self.idle.append(thread)
        else:
            thread.submit(connections.close_all)
            thread.shutdown(wait=False)


class Loan(Executor):
    """The thread of one request, taken at the first call; after `end` the next call takes another."""

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._thread: ThreadPoolExecutor | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._thread is None:
            self._thread = self._threads.take()
        return self._thread.submit(fn, *args, **kwargs)

    def end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._threads.give(thread)


_LOAN: ContextVar[Loan] = ContextVar("loan")


class StayingThreadsHandler(ASGIHandler):
    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self.threads = Threads()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """`handle` returns after Django has sent its last signal in the thread, also if the client has disconnected."""
        loan = Loan(self.threads)
        _LOAN.set(loan)
        try:
            async with ThreadSensitiveContext(executor=loan):
                await self.handle(scope, receive, send)
        finally:
            loan.end()

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        """Returns the thread of a streaming response, which may stay open for days and needs one only at its end."""
        response = await sync_to_async(self.get_response)(request)
        if response.streaming:
            _LOAN.get().end()
        return response
