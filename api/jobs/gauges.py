"""What /metrics and the panel ask of the database: aggregates, each one query however many rows there are."""

from dataclasses import dataclass

from django.db.models import Count, Min, Q, Sum

from api.audit.clock import now
from api.jobs.models import Attempt, Job, Outcome, Reconciliation, State, Unreferenced, Worker
from api.jobs.selectors import quarantined, workers_live


@dataclass(frozen=True)
class Waiting:
    """Of one pool."""

    due: int
    oldest_seconds: float
    """Since the one that waits longest came into the queue."""


def queue_by_pool() -> dict[str, Waiting]:
    """Pools with queued jobs that may start now, and those with live workers: there a queue of 0 is told too."""
    at = now()
    due = Job.objects.filter(Q(not_before=None) | Q(not_before__lte=at), state=State.QUEUED)
    counted = due.order_by().values_list("pool").annotate(Count("pk"), Min("queued_at"))
    waiting = {
        pool: Waiting(count, max(0.0, (at - oldest).total_seconds())) for pool, count, oldest in counted if count
    }
    served = {pool: Waiting(0, 0.0) for worker in workers_live() for pool in worker.pools}
    return served | waiting


def jobs_by_state() -> dict[str, int]:
    counted = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    return {state: counted.get(state, 0) for state in State.values}


def attempts_by_outcome() -> dict[str, int]:
    ended = Attempt.objects.filter(ended_at__isnull=False).order_by()
    counted = dict(ended.values_list("outcome").annotate(Count("pk")))
    return {outcome: counted.get(outcome, 0) for outcome in Outcome.values}


def attempts_live() -> int:
    return Attempt.objects.filter(ended_at=None).count()


def workers_by_state() -> dict[str, int]:
    """`live` takes jobs; `quarantined` failed too many; `away` is silent, draining or gone."""
    live, sick = len(workers_live()), len(quarantined())
    return {"live": live, "quarantined": sick, "away": Worker.objects.count() - live - sick}


def unreferenced_total() -> tuple[int, int]:
    """Objects of the storage that no row names, and their bytes, as the last passes found them."""
    found = Unreferenced.objects.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    return found["count"], found["size"] or 0


def removed_total() -> int:
    return Reconciliation.objects.values_list("removed_objects", flat=True).first() or 0
