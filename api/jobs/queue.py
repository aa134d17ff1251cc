"""Wake-up calls for worker pools: the only celery of the API. Losing, doubling or delaying one is harmless."""

import logging
import queue
import threading
from functools import cache

from celery import Celery
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from api.environment import environment

log = logging.getLogger(__name__)

TASK = "anneal.wake"
TIMEOUT_SECONDS = 1
WAITING: "queue.Queue[str]" = queue.Queue(maxsize=100)
BROKER_ERRORS = (OperationalError, RedisError, OSError)


def wake(pool: str) -> None:
    """Requests a call to `pool`. Never waits for the broker; drops the call if too many are waiting."""
    if not environment().broker_url:
        return
    _sender()
    try:
        WAITING.put_nowait(pool)
    except queue.Full:
        log.warning("wake-up call to pool %s dropped: %d are waiting for the broker", pool, WAITING.maxsize)


def call(pool: str, count: int = 1) -> None:
    """Sends `count` calls now. Raises one of BROKER_ERRORS."""
    for _ in range(count):
        app().send_task(TASK, args=[pool], queue=queue_name(pool), retry=False, ignore_result=True)


def waiting_calls(pool: str) -> int:
    """Length of the pool's queue. Raises one of BROKER_ERRORS."""
    with app().connection_for_write() as connection:
        return int(connection.default_channel.client.llen(queue_name(pool)))


def broker_answers() -> None:
    """Raises one of BROKER_ERRORS if it does not."""
    with app().connection_for_write() as connection:
        connection.default_channel.client.ping()


def queue_name(pool: str) -> str:
    return f"pool.{pool}"


@cache
def app() -> Celery:
    times = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS, "max_retries": 0}
    celery = Celery("anneal-api", broker=environment().broker_url, set_as_current=False)
    celery.conf.update(
        broker_transport_options={**times, "retry_on_timeout": False},
        broker_connection_timeout=TIMEOUT_SECONDS,
        broker_connection_retry=False,
        task_serializer="json",
        task_ignore_result=True,
    )
    return celery


@cache
def _sender() -> threading.Thread:
    thread = threading.Thread(target=_send_forever, name="wake-up-calls", daemon=True)
    thread.start()
    return thread


def _send_forever() -> None:
    while True:
        pool = WAITING.get()
        try:
            call(pool)
        except BROKER_ERRORS as error:
            log.warning("wake-up call to pool %s not sent: %s", pool, error)
        except Exception:  # nothing would restart this thread
            log.exception("wake-up call to pool %s not sent", pool)
