"""The Celery consumer, child of the host: turns messages into wake-up calls. A message is never more than that."""

import os
import signal
from typing import Any

from celery import Celery
from celery.signals import celeryd_init, worker_process_init

from foundation.lifeline import die_with_parent
from worker.host.wake import call_host
from worker.settings import consumer_settings_read

SETTINGS = consumer_settings_read(os.environ)

app = Celery("anneal", broker=SETTINGS.broker_url)
app.conf.update(
    worker_concurrency=1,
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    task_acks_late=False,
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    task_create_missing_queues=True,
    worker_send_task_events=False,
    worker_enable_remote_control=False,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options={"socket_timeout": 30, "socket_connect_timeout": 10, "socket_keepalive": True},
    worker_cancel_long_running_tasks_on_connection_loss=False,
)


@app.task(name="anneal.wake")  # type: ignore[untyped-decorator]  # celery ships no types
def wake(pool: str) -> None:  # noqa: ARG001 part of the message, for people who read a queue
    """Returns once the host has claimed, or had a free slot and found nothing; blocks while it is full."""
    call_host(SETTINGS.wake_socket)


@celeryd_init.connect  # type: ignore[untyped-decorator]
def follow_host(**_: Any) -> None:
    if SETTINGS.host_pid:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != SETTINGS.host_pid:
            os._exit(1)


@worker_process_init.connect  # type: ignore[untyped-decorator]
def follow_consumer(**_: Any) -> None:
    die_with_parent(signal.SIGKILL)
