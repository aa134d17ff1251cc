"""A worker with a free slot claims the first job that fits. One transaction; only the database's clock is used."""

import heapq
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from prometheus_client import Histogram
from pydantic import Field

from api.accounts.tokens import ATTEMPT_PREFIX, token_new
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Attempt, AvoidedWorker, Job, Worker
from api.jobs.placement import accelerators_for, accelerators_free, accelerators_hold, workers_instead
from api.jobs.schemas import Incoming
from api.jobs.selectors import ORDER, line_behind, line_heads, rank, workers_live
from api.jobs.services.workers import Labels, worker_touch
from api.jobs.states import State
from api.jobs.transitions import IDLE, job_audit, job_move
from trainers.contract.spec import MAX_BIGINT

CLAIM_SECONDS = Histogram(
    "anneal_claim_latency_seconds",
    "From queued to claimed.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300, 1800, 7200, 36000),
)
MAX_AVOIDING = 20
"""How many jobs that avoid its worker one claim considers."""


class ClaimRequest(Incoming):
    worker: UUID
    boot_id: UUID
    claim_id: UUID
    pools: list[str] = Field(min_length=1, max_length=50)
    free_accelerators: list[Annotated[int, Field(ge=0, le=1000)]] = Field([])
    room_bytes: int | None = Field(None, ge=0, le=MAX_BIGINT)
    """Free disk space for a job's inputs on the worker; null = not measured."""
    labels: Labels = Field({})


@dataclass(frozen=True)
class Claim:
    attempt: Attempt
    token: str
    """Plain; only its hash is stored."""


@transaction.atomic
def attempt_claim(*, request: ClaimRequest) -> Claim | None:
    """The attempt that the worker now owns, or None. The same claim_id returns the same attempt with a new token."""
    if replayed := Attempt.objects.select_related("job").filter(claim_id=request.claim_id).first():
        return _replay(replayed, request)
    worker = worker_touch(worker_id=request.worker, boot_id=request.boot_id)
    at = worker.last_seen
    if worker.draining or worker.quarantined_at or worker.attempts.filter(ended_at=None).count() >= worker.slots:
        return None
    if request.room_bytes != worker.room_bytes:
        Worker.objects.filter(pk=worker.pk).update(room_bytes=request.room_bytes)
    free = accelerators_free(worker, request.free_accelerators)
    fits = _fits_disk(request.room_bytes)
    if not AvoidedWorker.objects.filter(worker=worker).exists():
        return _take_first(request, worker, free, at, fits)
    return _take_first(request, worker, free, at, fits & ~Q(avoided__worker=worker)) or _take_avoiding(
        request, worker, free, at, fits
    )


def _fits_disk(room_bytes: int | None) -> Q:
    """Jobs whose inputs and checkpoint fit on the disk."""
    if room_bytes is None:
        return Q()
    with_checkpoint = Q(checkpoint__size_bytes__lte=room_bytes - F("input_bytes"))
    return Q(input_bytes__lte=room_bytes) & (Q(checkpoint=None) | with_checkpoint)


def _take_avoiding(request: ClaimRequest, worker: Worker, free: list[int], at: datetime, fits: Q) -> Claim | None:
    """Claims the first job that avoids this worker and that no other live worker could take."""
    avoiding = Job.objects.filter(fits, state=State.QUEUED, pool__in=request.pools, avoided__worker=worker)
    may_start = avoiding.filter(Q(not_before=None) | Q(not_before__lte=at)).order_by(*ORDER)
    for job in may_start[:MAX_AVOIDING]:
        chosen = accelerators_for(job.needs, free)
        if chosen is None or workers_instead(job, workers_live(job.pool)):
            continue
        if locked := _lock(job):
            return _claim(locked, worker, request.claim_id, chosen, at)
    return None


def _take_first(request: ClaimRequest, worker: Worker, free: list[int], at: datetime, fits: Q) -> Claim | None:
    """Claims the highest-ranked job that fits, unless the worker is reserved for a higher-ranked one."""
    heads = [(rank(job), job) for job in line_heads(request.pools, at, fits)]
    heapq.heapify(heads)
    passed_over: list[Job] = []
    while heads:
        job = heapq.heappop(heads)[1]
        chosen = accelerators_for(job.needs, free)
        if chosen is None and accelerators_for(job.needs, worker.indices) is None:
            continue  # neither the job nor its line fits this worker
        if chosen is None and not _waits_for_another(job, worker, at):
            passed_over.append(job)
            continue
        if chosen is not None:
            if any(_reserves(higher, worker, at) for higher in passed_over):
                return None
            if locked := _lock(job):
                return _claim(locked, worker, request.claim_id, chosen, at)
        if behind := line_behind(job, at, fits):
            heapq.heappush(heads, (rank(behind), behind))
    return None


def _lock(job: Job) -> Job | None:
    """The locked row, or None if another claim was first."""
    return Job.objects.select_for_update(skip_locked=True, of=("self",)).filter(pk=job.pk, state=State.QUEUED).first()


def _claim(job: Job, worker: Worker, claim_id: UUID, accelerators: list[int], at: datetime) -> Claim:
    token, token_hash = token_new(ATTEMPT_PREFIX)
    columns = {"fence": F("fence") + 1, "control_command": "", "progress": None, "not_before": None}
    waited = (at - max(job.queued_at, job.not_before or job.queued_at)).total_seconds()
    checkpoint = job.checkpoint
    if job.passed_over_since:
        _wait_propagate(job, job.passed_over_since, at)
    job_move(job=job, to=State.CLAIMED, by=f"worker:{worker.pk}", at=at, started=job.started or at, **IDLE | columns)
    attempt = Attempt.objects.create(
        job=job,
        n=job.attempts.count() + 1,
        fence=job.fence,
        worker=worker,
        boot_id=worker.boot_id,
        claim_id=claim_id,
        token_hash=token_hash,
        accelerators=accelerators,
        lease_expires_at=at + timedelta(seconds=environment().lease_seconds),
        started_at=at,
        progress_at=at,
        checkpoint=checkpoint,
        start_step=(checkpoint.step or 0) if checkpoint else 0,
    )
    accelerators_hold(attempt=attempt, job=job)
    CLAIM_SECONDS.observe(max(0.0, waited))
    return Claim(attempt, token)


def _replay(attempt: Attempt, request: ClaimRequest) -> Claim | None:
    """After a lost response: the same attempt with a new token; the old token becomes invalid. None if the attempt has
    ended meanwhile. A restarted host replays only a claim that it never started.
    """
    if attempt.worker_id != request.worker:
        raise Problem("claim_id_taken", "This claim_id belongs to another worker.", status=409)
    worker_touch(worker_id=request.worker, boot_id=request.boot_id)
    token, token_hash = token_new(ATTEMPT_PREFIX)
    columns = {"token_hash": token_hash, "boot_id": request.boot_id}
    if Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(**columns) != 1:
        return None
    attempt.refresh_from_db()
    return Claim(attempt, token)


def _waits_for_another(job: Job, worker: Worker, at: datetime) -> bool:
    other = job.reserved_worker
    return other is not None and other != worker and not _gone(other, at)


def _gone(worker: Worker, at: datetime) -> bool:
    silent = (at - worker.last_seen).total_seconds()
    return worker.draining or worker.gone or worker.quarantined_at is not None or silent >= environment().lease_seconds


def _reserves(job: Job, worker: Worker, at: datetime) -> bool:
    """Whether `worker` is reserved for `job`, which it could take if it were idle. Reserves it once the job has
    waited long enough."""
    if job.reserved_worker == worker:
        return True
    locked = _lock(job)
    if locked is None:
        return False  # another claim handles it
    if locked.passed_over_since is None:
        locked.passed_over_since = at
        locked.save(update_fields=["passed_over_since"])
    if (at - locked.passed_over_since).total_seconds() < environment().reserve_after_seconds:
        return False
    locked.reserved_worker = worker
    locked.save(update_fields=["reserved_worker"])
    _wait_propagate(locked, locked.passed_over_since, at)
    job_audit(job=job, kind="worker_reserved", by="claim", at=at, data={"worker": str(worker.pk)})
    return True


def _wait_propagate(job: Job, since: datetime, at: datetime) -> None:
    """Marks the next job in the line as passed over as well, at most since it was queued.

    So only heads of lines are written, and still each job reserves a worker in its turn.
    """
    behind = line_behind(job, at)
    if behind and behind.passed_over_since is None and (locked := _lock(behind)):
        locked.passed_over_since = max(since, locked.queued_at)
        locked.save(update_fields=["passed_over_since"])
