"""`python -m api dispatch`: wakes pools up and ends lost attempts, every two seconds."""

import logging
import signal
import threading
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import InterfaceError, OperationalError, connection

from api.catalog.removals import removals_sweep
from api.catalog.versions.checks import versions_check_until
from api.catalog.versions.uploads import uploads_sweep
from api.environment import environment
from api.jobs import queue
from api.jobs.selectors import due_up_to, free_slots
from api.jobs.services.attempt_lifecycle import attempts_reap, stuck_end
from api.jobs.services.log import logs_compact
from api.jobs.services.reconcile import reconcile_pass

log = logging.getLogger(__name__)


class Every:
    """`due` is true on the first call, and then once in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._next = seconds, 0.0

    def due(self) -> bool:
        if time.monotonic() < self._next:
            return False
        self._next = time.monotonic() + self._seconds
        return True


STUCK = Every(60)
RECONCILE = Every(3600)
SWEEPS = Every(600)
"""Rare, because listing all open uploads of a bucket is expensive."""


def dispatch_round() -> None:
    """Tops up the queues, ends lost attempts, stores logs, removes the files of what was deleted."""
    if reaped := attempts_reap():
        log.warning("%d attempts ended as lost", reaped)
    if STUCK.due() and (ended := stuck_end()):
        log.warning("%d attempts ended that their workers did not end", ended)
    if environment().broker_url:
        queues_top_up()
    try:
        logs_compact()
    except OSError as error:
        log.error("logs stay in the database: %s", error)
    if environment().reconcile != "off" and RECONCILE.due():
        _reconcile()
    if SWEEPS.due():
        _uploads_sweep()
    removals_sweep()


def _reconcile() -> None:
    try:
        result = reconcile_pass(remove=environment().reconcile == "remove")
    except OSError as error:
        log.error("the storage was not compared with the database: %s", error)
        return
    if result.removed:
        log.warning("%d objects that no row names were removed", len(result.removed))


def _uploads_sweep() -> None:
    try:
        uploads_sweep()
    except OSError as error:
        log.error("old uploads stay in the storage: %s", error)


def queues_top_up() -> dict[str, int]:
    """Sends calls until min(due jobs, free slots, limit) are waiting; returns their number by pool. Logs a warning if
    the broker is down."""
    sent: dict[str, int] = {}
    for pool, free in free_slots().items():
        target = due_up_to(pool, min(free, environment().dispatch_limit)) if free else 0
        try:
            missing = target - queue.waiting_calls(pool) if target else 0
            queue.call(pool, max(0, missing))
        except queue.BROKER_ERRORS as error:
            log.warning("the broker does not answer, workers poll: %s", error)
            return sent
        sent[pool] = max(0, missing)
    return sent


class Command(BaseCommand):
    help = "Wake worker pools up, end lost attempts, store logs of ended attempts; until SIGTERM or SIGINT."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--once", action="store_true", help="one round only")

    def handle(self, *_: Any, **options: Any) -> None:
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        if not options["once"]:
            threading.Thread(target=versions_check_until, args=(stop,), daemon=True, name="versions").start()
        while not stop.is_set():
            _round()
            if options["once"]:
                return
            stop.wait(environment().dispatch_seconds)


def _round() -> None:
    """The database may restart under us, or one job's rows break a sweep; the next round tries again."""
    try:
        dispatch_round()
    except (OperationalError, InterfaceError) as error:
        log.error("the database does not answer: %s", error)
        connection.close()
    except Exception:
        log.exception("a round of the dispatcher failed")
        connection.close()
