"""The queue as lines: in each stand the queued jobs of one pool that need the same accelerators.

A claim looks at the head of each line, never at those behind it, so that it costs the same however long the lines are.
All reads here walk the partial indices `job_claim` and `job_line`.
"""

from collections.abc import Iterable
from datetime import datetime

from django.db.models import Q, QuerySet

from api.jobs.models import Job, State

ORDER = ("-priority", "created", "pk")
ANY = Q()


def line_heads(pools: Iterable[str], at: datetime, fits: Q = ANY) -> list[Job]:
    """The first job of each line that may start now and that `fits`: one query for each line."""
    heads: list[Job] = []
    for pool in sorted(set(pools)):
        needs = ""
        while head := due(pool, at).filter(fits, needs__gt=needs).order_by("needs", *ORDER).first():
            heads.append(head)
            needs = head.needs
    return heads


def line_behind(job: Job, at: datetime, fits: Q = ANY) -> Job | None:
    """Who stands next in the line of `job`."""
    later = Q(created__gt=job.created) | Q(created=job.created, pk__gt=job.pk)
    behind = Q(priority__lt=job.priority) | Q(later, priority=job.priority)
    return due(job.pool, at).filter(fits, behind, needs=job.needs).order_by(*ORDER).first()


def due(pool: str, at: datetime) -> QuerySet[Job]:
    """Queued jobs that may start now."""
    may_start = Q(not_before=None) | Q(not_before__lte=at)
    return Job.objects.filter(may_start, state=State.QUEUED, pool=pool).select_related("reserved_worker")


def rank(job: Job) -> tuple[int, datetime, str]:
    """Sorts jobs of any lines by who goes first."""
    return -job.priority, job.created, job.pk.hex
