"""One round of the dispatcher. Any number may run: calls name a pool, never a job; a second reaper changes nothing."""

import logging
import time

from api.catalog.removals import removals_sweep
from api.catalog.versions.uploads import uploads_sweep
from api.environment import environment
from api.jobs import queue
from api.jobs.selectors import due_up_to, free_slots
from api.jobs.services.force import stuck_end
from api.jobs.services.log_storage import logs_compact
from api.jobs.services.reap import attempts_reap
from api.jobs.services.reconcile import reconcile_pass

log = logging.getLogger(__name__)


class Every:
    """Says "now" at the first question, and then once in so many seconds."""

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
"""Listing all open uploads of a bucket each round would cost more than it finds."""


def dispatch_round() -> None:
    """Tops up the queues, ends lost attempts, stores logs, removes the files of what was deleted."""
    if reaped := attempts_reap():
        log.warning("%d attempts ended as lost", reaped)
    if STUCK.due() and (ended := stuck_end()):
        log.warning("%d attempts ended that their workers do not end", ended)
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
        done = reconcile_pass(remove=environment().reconcile == "remove")
    except OSError as error:
        log.error("the storage was not compared with the books: %s", error)
        return
    if done.removed:
        log.warning("%d objects were removed that no row has named for long", len(done.removed))


def _uploads_sweep() -> None:
    try:
        uploads_sweep()
    except OSError as error:
        log.error("old uploads stay in the storage: %s", error)


def queues_top_up() -> dict[str, int]:
    """Calls sent by pool, so that min(due jobs, free slots, limit) wait. A broker that is down costs a warning."""
    sent: dict[str, int] = {}
    for pool, free in free_slots().items():
        wanted = due_up_to(pool, min(free, environment().dispatch_limit)) if free else 0
        try:
            missing = wanted - queue.waiting_calls(pool) if wanted else 0
            queue.call(pool, max(0, missing))
        except queue.BROKER_ERRORS as error:
            log.warning("the broker does not answer, workers poll: %s", error)
            return sent
        sent[pool] = max(0, missing)
    return sent
