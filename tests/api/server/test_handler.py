"""Django's requests run on threads that stay, one request on a thread at a time."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.db import connection
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse

from api.accounts.models import Project
from api.server.handler import MAX_IDLE_THREADS, StayingThreadsHandler
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)
SCOPE = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [(b"host", b"testserver")]}


def handler_for(respond: Callable[[], HttpResponseBase | None]) -> StayingThreadsHandler:
    """A handler whose every request calls `respond` in the place of middleware and view."""

    def get_response(_: HttpRequest) -> HttpResponseBase:
        return respond() or HttpResponse()

    handler = StayingThreadsHandler()
    handler.get_response = get_response  # type: ignore[method-assign,assignment]
    return handler


async def request(handler: StayingThreadsHandler, gone: asyncio.Event | None = None) -> None:
    """One request; its client goes away when `gone` is set."""
    messages = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await (gone or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None: ...

    await handler(dict(SCOPE), receive, send)


@pytest.mark.database("sqlite")
def test_the_next_request_finds_the_thread_and_its_connection() -> None:
    used: list[tuple[int, Any]] = []

    def respond() -> None:
        assert Project.objects.count() == 0
        used.append((threading.get_ident(), connection.connection))

    async def two() -> None:
        for _ in range(2):
            await request(handler)

    handler = handler_for(respond)
    asyncio.run(two())
    assert used[0] == used[1]


@pytest.mark.database("sqlite")
@pytest.mark.parametrize("case", ["failed", "another file"])
def test_a_connection_that_failed_or_whose_file_was_replaced_is_opened_anew(case: str) -> None:
    used: list[Any] = []

    def respond() -> None:
        connection.ensure_connection()
        used.append(connection.connection)
        if case == "failed" and len(used) == 1:
            connection.errors_occurred = True
        elif len(used) == 1:
            connection._file = (0, 0)  # type: ignore[attr-defined]  # of our backend

    async def two() -> None:
        for _ in range(2):
            await request(handler)

    handler = handler_for(respond)
    asyncio.run(two())
    assert used[0] is not used[1]


def test_a_thread_is_busy_until_the_request_of_a_client_that_went_away_is_done() -> None:
    go_on, threads = threading.Event(), list[int]()
    begun = threading.Semaphore(0)

    def respond() -> None:
        threads.append(threading.get_ident())
        begun.release()
        if len(threads) == 1:
            assert go_on.wait(PATIENCE_SECONDS)

    async def all_of_them() -> None:
        gone = asyncio.Event()
        left = asyncio.create_task(request(handler, gone))
        assert await asyncio.to_thread(begun.acquire, timeout=PATIENCE_SECONDS)
        gone.set()
        await asyncio.wait_for(request(handler), PATIENCE_SECONDS)
        assert not left.done()
        go_on.set()
        await left

    handler = handler_for(respond)
    asyncio.run(all_of_them())
    assert threads[0] != threads[1]


def test_a_burst_leaves_a_bounded_number_of_threads() -> None:
    count = MAX_IDLE_THREADS + 4
    together = threading.Barrier(count)
    threads: list[threading.Thread] = []

    def respond() -> None:
        threads.append(threading.current_thread())
        together.wait(PATIENCE_SECONDS)

    async def burst() -> None:
        await asyncio.gather(*(request(handler) for _ in range(count)))

    handler = handler_for(respond)
    asyncio.run(burst())
    staying = {thread for executor in handler.threads.idle for thread in executor._threads}
    assert len(staying) == MAX_IDLE_THREADS
    for thread in set(threads) - staying:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def test_a_stream_that_is_open_holds_no_thread() -> None:
    threads: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        yield b"one"
        opened.set()
        await go_on.wait()
        yield b"two"

    def respond() -> HttpResponseBase | None:
        threads.append(threading.get_ident())
        return StreamingHttpResponse(parts()) if len(threads) == 1 else None

    async def all_of_them() -> None:
        stream = asyncio.create_task(request(handler))
        await asyncio.wait_for(opened.wait(), PATIENCE_SECONDS)
        await request(handler)
        assert not stream.done()
        go_on.set()
        await asyncio.wait_for(stream, PATIENCE_SECONDS)

    opened, go_on = asyncio.Event(), asyncio.Event()
    handler = handler_for(respond)
    asyncio.run(all_of_them())
    assert threads[0] == threads[1]
    assert len(handler.threads.idle) == 1
