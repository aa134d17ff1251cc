"""Aggregates for /metrics and the panel, each one query for any number of rows."""

from dataclasses import dataclass

from django.db.models import Count, Min, Q, Sum

from api.audit.clock import now
from api.jobs.models import Attempt, Job, Reconciliation, Unreferenced, Worker
from api.jobs.selectors import quarantined, workers_live
from api.jobs.states import Outcome, State


@dataclass(frozen=True)
class Waiting:
    """The queue of one pool."""

    due: int
    oldest_seconds: float
    """Since the job that waits longest was queued."""


def queue_by_pool() -> dict[str, Waiting]:
    """Pools with queued jobs that may start now, and pools with live workers, even if their queue is empty."""
    at = now()
    due = Job.objects.filter(Q(not_before=None) | Q(not_before__lte=at), state=State.QUEUED)
    counts = due.order_by().values_list("pool").annotate(Count("pk"), Min("queued_at"))
    waiting = {pool: Waiting(count, max(0.0, (at - oldest).total_seconds())) for pool, count, oldest in counts if count}
    served = {pool: Waiting(0, 0.0) for worker in workers_live() for pool in worker.pools}
    return served | waiting


def jobs_by_state() -> dict[str, int]:
    counts = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    return {state: counts.get(state, 0) for state in State.values}


def attempts_by_outcome() -> dict[str, int]:
    ended = Attempt.objects.filter(ended_at__isnull=False).order_by()
    counts = dict(ended.values_list("outcome").annotate(Count("pk")))
    return {outcome: counts.get(outcome, 0) for outcome in Outcome.values}


def attempts_live() -> int:
    return Attempt.objects.filter(ended_at=None).count()


def workers_by_state() -> dict[str, int]:
    """`live` takes jobs; `quarantined` failed too many; `away` is silent, draining or gone."""
    num_live, num_quarantined = len(workers_live()), len(quarantined())
    num_away = Worker.objects.count() - num_live - num_quarantined
    return {"live": num_live, "quarantined": num_quarantined, "away": num_away}


def unreferenced_total() -> tuple[int, int]:
    """The number of objects in the storage that no row names, and their bytes, as of the last passes."""
    total = Unreferenced.objects.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    return total["count"], total["size"] or 0


def removed_total() -> int:
    return Reconciliation.objects.values_list("removed_objects", flat=True).first() or 0
