"""Reads of jobs, always within one project; no transaction, a bounded number of queries."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet
from django.http import Http404

from api.accounts.models import Project
from api.audit.clock import now
from api.environment import environment
from api.jobs.models import Attempt, Job, Worker
from api.jobs.queue_order import ORDER, due

LIVE_HEARTBEATS = 4
"""A worker that missed so many is not counted on."""
MIN_PREFIX = 8
MAX_ALIKE = 100
"""Ids of one prefix, of all projects, that are looked up one by one."""
FAR = 1000
"""Places in a queue are counted up to here."""


def jobs_of(project: Project) -> QuerySet[Job]:
    """With all that `shapes` shows. Into attributes: a prefetch into managers builds a query for each of them."""
    attempts = Attempt.objects.select_related("worker").order_by("n")
    shown: list[Any] = [  # the attributes are declared in the model; the stubs would declare them again
        Prefetch("attempts", attempts, to_attr="shown_attempts"),
        Prefetch("adaptors", to_attr="shown_adaptors"),
        Prefetch("labels", to_attr="shown_labels"),
    ]
    return Job.objects.filter(project=project).prefetch_related(*shown)


def job_find(jobs: QuerySet[Job], ref: str) -> Job:
    """By uuid or a unique prefix of its hexadecimal digits. Raises Http404.

    The ids that start so are looked up alone first: beside a project, SQLite would read all jobs of the project.
    """
    digits = ref.replace("-", "").lower()
    if not MIN_PREFIX <= len(digits) <= 32 or any(c not in "0123456789abcdef" for c in digits):
        raise Http404(f"There is no job {ref!r}; expected its id or at least {MIN_PREFIX} of its first characters.")
    found = list(jobs.filter(_starts_with(digits))[:2])
    if len(found) != 1:
        raise Http404(f"There is no job {ref!r}." if not found else f"More than one job starts with {ref!r}.")
    return found[0]


def _starts_with(digits: str) -> Q:
    if len(digits) == 32:
        return Q(pk=UUID(digits))
    between = Q(pk__gte=UUID(digits.ljust(32, "0")), pk__lte=UUID(digits.ljust(32, "f")))
    ids = list(Job.objects.filter(between).values_list("pk", flat=True)[: MAX_ALIKE + 1])
    return Q(pk__in=ids) if len(ids) <= MAX_ALIKE else between


def workers_without_wall() -> tuple[int, int]:
    """How many live workers there are, and on how many of them trainers can read the worker's files."""
    live = workers_live()
    return len(live), sum(worker.wall in ("", "none") for worker in live)


def workers_live(pool: str | None = None) -> list[Worker]:
    """Workers that take jobs (of `pool`): seen lately, neither draining nor in quarantine."""
    since = now() - timedelta(seconds=LIVE_HEARTBEATS * environment().heartbeat_seconds)
    found = Worker.objects.filter(last_seen__gte=since, draining=False, gone=False, quarantined_at=None)
    return [worker for worker in found if pool is None or pool in worker.pools]


def quarantined(pool: str | None = None) -> list[str]:
    """Hosts in quarantine (that serve `pool`), each with its reason."""
    found = Worker.objects.exclude(quarantined_at=None).filter(gone=False).order_by("host")
    serving = (worker for worker in found if pool is None or pool in worker.pools)
    return [f"{worker.host} ({worker.quarantine['code'] if worker.quarantine else 'unknown'})" for worker in serving]


def draining() -> list[Worker]:
    """Workers that are asked to take nothing new, by host."""
    return list(Worker.objects.filter(draining=True, gone=False).order_by("host"))


def due_up_to(pool: str, limit: int) -> int:
    """How many queued jobs of the pool may start now, counted no further than `limit`."""
    return due(pool, now()).order_by()[:limit].count()


def free_slots() -> dict[str, int]:
    """Slots of the live workers that serve a pool, by pool."""
    slots: dict[str, int] = {}
    for worker in workers_live():
        for pool in worker.pools:
            slots[pool] = slots.get(pool, 0) + worker.free_slots
    return slots


def queue_state(pools: set[str]) -> dict[str, Any]:
    """For the sentences of waiting jobs: live workers, and how many jobs stand before the first ones of each pool."""
    ahead: dict[Any, int] = {}
    at = now()
    for pool in pools:
        first = due(pool, at).order_by(*ORDER).values_list("pk", flat=True)[:FAR]
        ahead |= {job_id: place for place, job_id in enumerate(first)}
    return {"workers": workers_live(), "ahead": ahead}
