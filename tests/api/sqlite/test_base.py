"""The line of SQLite's writers in one process, its shared syncs, and the turns of workers' reports."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from api.accounts.models import Project
from api.server.request_limits import REPORTS, STREAMS, in_turns
from api.sqlite import base as lines
from api.sqlite.base import Line

on_sqlite = pytest.mark.database("sqlite")


def in_thread(target: Any) -> threading.Thread:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def wait_for_length(line: Line, length: int) -> None:
    for _ in range(10_000):
        if line.length == length:
            return
        threading.Event().wait(0.001)
    raise AssertionError(f"{line.length} wait, not {length}")


def test_writers_get_their_turn_in_the_order_of_their_coming() -> None:
    line, order = Line("none"), list[int]()

    def write(number: int) -> None:
        assert line.enter(10)
        order.append(number)
        line.leave()

    assert line.enter(0)
    threads = []
    for number in range(20):
        threads.append(in_thread(lambda number=number: write(number)))
        wait_for_length(line, number + 1)
    line.leave()
    for thread in threads:
        thread.join(10)
    assert order == list(range(20))


def test_a_writer_that_waits_too_long_leaves_the_line_whole() -> None:
    line = Line("none")
    assert line.enter(0)
    assert not line.enter(0.001)
    assert line.length == 0
    line.leave()
    assert line.enter(0)


def test_commits_that_wait_for_the_disk_share_a_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    line, syncs = Line("none"), list[str]()
    begun, go_on = threading.Event(), threading.Event()

    def slow(path: str) -> None:
        syncs.append(path)
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(lines, "_file_sync", slow)
    first = in_thread(line.sync)
    assert begun.wait(10)
    others = [in_thread(line.sync) for _ in range(10)]
    go_on.set()
    for thread in [first, *others]:
        thread.join(10)
    assert 2 <= len(syncs) < 11
    assert not any(thread.is_alive() for thread in [first, *others])


def test_a_sync_that_fails_fails_its_commit_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line("none")

    def fail(path: str) -> None:
        raise OSError(5, f"Input/output error: {path}")

    monkeypatch.setattr(lines, "_file_sync", fail)
    with pytest.raises(OSError, match="Input/output"):
        line.sync()
    monkeypatch.setattr(lines, "_file_sync", lambda _: None)
    line.sync()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_every_commit_is_synced_before_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    syncs: list[str] = []
    monkeypatch.setattr(lines, "_file_sync", syncs.append)
    with transaction.atomic():
        Project.objects.create(name="in-a-transaction")
        assert not syncs
    assert syncs == [f"{connection.settings_dict['NAME']}-wal"]
    Project.objects.filter(name="in-a-transaction").update(name="alone")
    assert len(syncs) == 2
    list(Project.objects.all())
    assert len(syncs) == 2, "reads wait for no disk"
    assert Path(syncs[0]).exists()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_a_transaction_gives_its_ticket_back_however_it_ends() -> None:
    line = lines.line_of(str(connection.settings_dict["NAME"]))

    def is_free() -> bool:
        entered = line.enter(0)
        if entered:
            line.leave()
        return entered

    with transaction.atomic():
        assert not is_free()
    assert is_free()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        raise ZeroDivisionError
    assert is_free()
    with transaction.atomic():
        connection.close()
        assert is_free()


@on_sqlite
@pytest.mark.django_db(transaction=True)
def test_many_threads_write_without_a_refusal() -> None:
    errors: list[Exception] = []

    def write(number: int) -> None:
        try:
            for n in range(5):
                with transaction.atomic():
                    Project.objects.create(name=f"project-{number}-{n}")
        except Exception as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [in_thread(lambda number=number: write(number)) for number in range(16)]
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert Project.objects.filter(name__startswith="project-").count() == 80


def test_reports_take_turns_and_a_slow_body_or_answer_holds_none() -> None:
    working: list[str] = []
    most = 0
    go_on = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        await receive()
        working.append(scope["path"])
        most = max(most, len(working))
        await asyncio.sleep(0)
        working.remove(scope["path"])
        await send({"type": "http.response.start"})
        await go_on.wait()

    async def request(path: str, body: asyncio.Event) -> None:
        async def receive() -> Any:
            await body.wait()
            return {"type": "http.request"}

        async def send(_: Any) -> None: ...

        await turned({"type": "http", "path": path}, receive, send)

    async def all_of_them() -> None:
        never, ready = asyncio.Event(), asyncio.Event()
        ready.set()
        slow = [asyncio.create_task(request("/internal/v1/workers/heartbeat", never)) for _ in range(5)]
        quick = [asyncio.create_task(request(f"/internal/v1/attempts/{n}/events", ready)) for n in range(20)]
        for _ in range(200):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*quick)
        for task in slow:
            task.cancel()

    turned = in_turns(app, REPORTS, 2)
    asyncio.run(all_of_them())
    assert most == 2


def test_streams_are_opened_a_few_at_a_time_and_stay_open_without_a_turn() -> None:
    opening: list[str] = []
    most = 0

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal most
        await receive()
        opening.append(scope["path"])
        most = max(most, len(opening))
        await asyncio.sleep(0)
        opening.remove(scope["path"])
        await send({"type": "http.response.start"})
        opened.append(scope["path"])
        await asyncio.Event().wait()

    async def request(path: str) -> None:
        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(_: Any) -> None: ...

        await turned({"type": "http", "path": path}, receive, send)

    async def all_of_them() -> None:
        tasks = [asyncio.create_task(request(f"/api/v1/jobs/{n}/stream")) for n in range(20)]
        for _ in range(200):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()

    opened: list[str] = []
    turned = in_turns(app, STREAMS, 2)
    asyncio.run(all_of_them())
    assert (most, len(opened)) == (2, 20)
