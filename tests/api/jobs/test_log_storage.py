"""Logs move into the storage in pieces while readers read and agents write."""

import random
import threading

import pytest
from django.db import connection
from rest_framework.test import APIClient

from api.jobs.models import Attempt, Job, LogChunk, LogPiece
from api.jobs.services.log import log_read, log_size, logs_compact
from tests.api.host import Agent, Host
from tests.api.world import World
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    user.post("/api/v1/jobs", world.request, format="json")
    return host.claim()


def write(agent: Agent, lines: int, seed: int = 0) -> bytes:
    """Sends a log in chunks of uneven size; gives all of it."""
    chance, content = random.Random(seed), b""
    for number in range(lines):
        line = f"{number} ".encode() + b"x" * chance.randrange(1, 300) + b"\n"
        assert agent.log(len(content), line).status_code == 204
        content += line
    return content


@pytest.mark.django_db
def test_a_live_log_keeps_its_tail_in_the_database_and_reads_as_one(agent: Agent, user: APIClient) -> None:
    content = write(agent, 60)
    assert logs_compact(piece_bytes=1000, tail_bytes=2000) == 1
    attempt = Attempt.objects.get()
    hot = sum(len(chunk.bytes) for chunk in LogChunk.objects.all())
    assert 1500 <= hot <= 2300, "the tail, to within a chunk"
    assert attempt.log_stored + hot == len(content) == attempt.log_bytes
    assert LogPiece.objects.count() >= 4
    chance = random.Random(1)
    for _ in range(50):
        start = chance.randrange(len(content))
        limit = chance.randrange(1, len(content))
        assert log_read(attempt.job, start, limit) == content[start : start + limit]
    assert user.get(f"/api/v1/jobs/{agent.job}/log?limit=1000000").content == content


@pytest.mark.django_db
def test_an_agent_can_continue_and_repeat_its_log(agent: Agent) -> None:
    content = write(agent, 40)
    logs_compact(piece_bytes=1000, tail_bytes=1000)
    assert agent.log(len(content) - 100, content[-100:]).status_code == 204, "the tail may be said again"
    old = agent.log(0, content[:10])
    assert (old.status_code, old.json()["fields"]) == (409, {"expected": [len(content)]})
    assert agent.log(len(content), b"more\n").status_code == 204
    agent.finish("failed")
    assert logs_compact(piece_bytes=1000) == 1
    assert logs_compact(piece_bytes=1000) == 0
    assert not LogChunk.objects.exists()
    assert log_read(Job.objects.get(), 0, 10**6) == content + b"more\n"


@pytest.mark.django_db
def test_a_short_live_log_stays_where_it_is(agent: Agent) -> None:
    write(agent, 10)
    assert logs_compact() == 0
    assert not LogPiece.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_readers_miss_nothing_while_two_dispatchers_move_it(agent: Agent) -> None:
    content, job, wrong = write(agent, 120), Job.objects.get(), []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if log_read(job, 0, len(content)) != content:
                wrong.append("a gap")
        connection.close()

    def move() -> None:
        while logs_compact(piece_bytes=700, tail_bytes=500):
            if Attempt.objects.get().log_stored >= len(content) - 1500:
                break
        connection.close()

    reader = threading.Thread(target=read)
    movers = [threading.Thread(target=move) for _ in range(2)]
    for thread in (reader, *movers):
        thread.start()
    for thread in movers:
        thread.join(timeout=PATIENCE_SECONDS)
    done.set()
    reader.join(timeout=PATIENCE_SECONDS)
    assert not wrong
    pieces = list(LogPiece.objects.order_by("start"))
    assert [piece.start + piece.size_bytes for piece in pieces[:-1]] == [piece.start for piece in pieces[1:]]
    assert log_size(job) == len(content)
