"""Reads of jobs, workers and the queue; no transaction, a bounded number of queries.

The queue consists of lines: each holds the queued jobs of one pool that need the same accelerators. A claim reads the
head of each line and never the jobs behind it, so its cost does not depend on the length of the lines. All reads of
lines use the partial indices `job_claim` and `job_line`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import Prefetch, Q, QuerySet
from django.http import Http404

from api.accounts.models import Project
from api.audit.clock import now
from api.catalog.models import Adaptor
from api.environment import environment
from api.jobs.models import Artifact, Attempt, Event, Job, Worker
from api.jobs.states import State
from trainers.contract.params import params_class
from trainers.contract.params.base import Params

LIVE_HEARTBEATS = 4
"""A worker that missed this many heartbeats is not counted as live."""
MIN_PREFIX = 8
MAX_ALIKE = 100
"""Ids with one prefix, in all projects, that are looked up one by one."""
FAR = 100
"""Places in a queue are counted up to here."""
ATTEMPT_COLUMNS = (
    *("job", "n", "fence", "worker__host", "started_at", "ended_at", "outcome", "exit_code", "reason"),
    *("last_step", "start_step", "phase"),
)
"""What `JobShape` shows of an attempt."""
LINE_COLUMNS = (
    *("project", "pool", "needs", "priority", "created", "passed_over_since"),
    *(f"reserved_worker__{name}" for name in ("last_seen", "draining", "gone", "quarantined_at")),
)
"""What a claim reads of the heads of lines; the job that it takes is read whole."""
ORDER = ("-priority", "created", "pk")
ANY = Q()


def jobs_of(project: Project) -> QuerySet[Job]:
    """With all that `JobShape` shows, and of the rows beside the job no more.

    Into attributes: a prefetch into managers builds a query for each of them.
    """
    attempts = Attempt.objects.select_related("worker").only(*ATTEMPT_COLUMNS).order_by("n")
    shown: list[Any] = [  # the attributes are declared in the model; the stubs would declare them again
        Prefetch("attempts", attempts, to_attr="shown_attempts"),
        Prefetch("adaptors", Adaptor.objects.only("job", "name", "version", "partial"), to_attr="shown_adaptors"),
        Prefetch("labels", to_attr="shown_labels"),
    ]
    return Job.objects.filter(project=project).prefetch_related(*shown)


def job_in(project: Project, ref: str) -> Job:
    """The job without the rows that `JobShape` shows beside it. Raises Http404."""
    return job_find(Job.objects.filter(project=project), ref)


def job_find(jobs: QuerySet[Job], ref: str) -> Job:
    """By uuid or a unique prefix of its hexadecimal digits. Raises Http404.

    Ids with the prefix are looked up first, without the project: with it, SQLite would read all jobs of the project.
    """
    digits = ref.replace("-", "").lower()
    if not MIN_PREFIX <= len(digits) <= 32 or any(c not in "0123456789abcdef" for c in digits):
        raise Http404(f"There is no job {ref!r}; expected its id or at least {MIN_PREFIX} of its first characters.")
    matches = list(jobs.filter(_starts_with(digits))[:2])
    if len(matches) != 1:
        raise Http404(f"There is no job {ref!r}." if not matches else f"More than one job starts with {ref!r}.")
    return matches[0]


def _starts_with(digits: str) -> Q:
    if len(digits) == 32:
        return Q(pk=UUID(digits))
    between = Q(pk__gte=UUID(digits.ljust(32, "0")), pk__lte=UUID(digits.ljust(32, "f")))
    ids = list(Job.objects.filter(between).values_list("pk", flat=True)[: MAX_ALIKE + 1])
    return Q(pk__in=ids) if len(ids) <= MAX_ALIKE else between


def params_of(job: Job) -> Params:
    return params_class(job.method).model_validate(job.spec["params"])


def params_stored(job: Job) -> Params:
    """As they were validated when the job was submitted."""
    return params_class(job.method).stored(job.spec["params"])


def due(pool: str, at: datetime) -> QuerySet[Job]:
    """Queued jobs that may start now, with the columns that decide about their place."""
    may_start = Q(not_before=None) | Q(not_before__lte=at)
    jobs = Job.objects.filter(may_start, state=State.QUEUED, pool=pool)
    return jobs.select_related("reserved_worker").only(*LINE_COLUMNS)


def due_up_to(pool: str, limit: int) -> int:
    """How many queued jobs of the pool may start now, counted up to `limit`."""
    return due(pool, now()).order_by()[:limit].count()


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
    """The next job in the line of `job`."""
    later = Q(created__gt=job.created) | Q(created=job.created, pk__gt=job.pk)
    behind = Q(priority__lt=job.priority) | Q(later, priority=job.priority)
    return due(job.pool, at).filter(fits, behind, needs=job.needs).order_by(*ORDER).first()


def rank(job: Job) -> tuple[int, datetime, str]:
    """Sort key of jobs across lines: the lowest goes first."""
    return -job.priority, job.created, job.pk.hex


def places(pools: Iterable[str], at: datetime) -> dict[UUID, int]:
    """The number of jobs ahead, by job, of the first FAR that may start now in each pool."""
    first: dict[UUID, int] = {}
    for pool in sorted(set(pools)):
        ids = due(pool, at).order_by(*ORDER).values_list("pk", flat=True)[:FAR]
        first |= {job_id: place for place, job_id in enumerate(ids)}
    return first


def workers_live(pool: str | None = None) -> list[Worker]:
    """Workers that take jobs (of `pool`): seen lately, neither draining nor in quarantine."""
    at = now()
    workers = Worker.objects.filter(last_seen__gte=live_since(at), draining=False, gone=False, quarantined_at=None)
    return [worker for worker in workers if pool is None or pool in worker.pools]


def is_live(worker: Worker, at: datetime) -> bool:
    """Of a worker that is not gone."""
    return worker.last_seen >= live_since(at) and not worker.draining and worker.quarantined_at is None


def live_since(at: datetime) -> datetime:
    """A worker that was last seen before does not count as live."""
    return at - timedelta(seconds=LIVE_HEARTBEATS * environment().heartbeat_seconds)


def workers_without_wall() -> tuple[int, int]:
    """The number of live workers, and of those on which trainers can read the worker's files."""
    live = workers_live()
    return len(live), sum(worker.wall in ("", "none") for worker in live)


def quarantined() -> list[str]:
    """Hosts in quarantine, each with its reason."""
    workers = Worker.objects.exclude(quarantined_at=None).filter(gone=False).order_by("host")
    return [quarantine_named(worker) for worker in workers]


def quarantine_named(worker: Worker) -> str:
    return f"{worker.host} ({worker.quarantine['code'] if worker.quarantine else 'unknown'})"


def free_slots() -> dict[str, int]:
    """By pool: free slots of the live workers that serve it."""
    slots: dict[str, int] = {}
    for worker in workers_live():
        for pool in worker.pools:
            slots[pool] = slots.get(pool, 0) + worker.free_slots
    return slots


KINDS = ("sample", "validation", "checkpoint", "finished", "artifact")
"""Kinds of events about a step. All others are about the attempt and are always shown."""
Reaches = dict[Any, int | None]
"""By attempt: the last step that still counts; None = all, 0 = none, since a later attempt started from step 0."""


def reaches_of(job_ids: Iterable[Any]) -> Reaches:
    """Of all attempts of these jobs, in one query. An attempt supersedes others once its trainer has sent an event."""
    rows = Attempt.objects.filter(job__in=list(job_ids)).order_by("job", "-n")
    reaches: Reaches = {}
    ends: dict[Any, int | None] = {}
    for pk, job, start_step, event_seq in rows.values_list("pk", "job", "start_step", "event_seq"):
        reaches[pk] = end = ends.get(job)
        if event_seq:
            ends[job] = start_step if end is None else min(end, start_step)
    return reaches


def is_superseded(reaches: Reaches, attempt_id: Any, kind: str, step: int | None) -> bool:
    end = reaches.get(attempt_id)
    return end is not None and kind in KINDS and (end == 0 or (step is not None and step > end))


def events_shown(events: QuerySet[Event], job_id: Any) -> QuerySet[Event]:
    hidden = Q(pk__in=())
    for attempt, end in _cut(reaches_of([job_id])):
        hidden |= Q(attempt=attempt, kind__in=KINDS, **({"data__step__gt": end} if end else {}))
    return events.exclude(pk__in=Event.objects.filter(hidden).values("pk"))


def samples_shown(artifacts: QuerySet[Artifact], job_ids: Iterable[Any]) -> QuerySet[Artifact]:
    """`artifacts` without superseded samples. Checkpoints and other files stay."""
    hidden = Q(pk__in=())
    for attempt, end in _cut(reaches_of(job_ids)):
        hidden |= Q(attempt=attempt, kind=Artifact.Kind.SAMPLE, **({"step__gt": end} if end else {}))
    return artifacts.exclude(hidden)


def _cut(reaches: Reaches) -> list[tuple[Any, int]]:
    return [(attempt, end) for attempt, end in reaches.items() if end is not None]
