"""The life of an attempt after its claim: heartbeats, its end, and the reaper of silent or stuck ones."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from pydantic import Field

from api.audit.clock import now
from api.audit.models import audit_add
from api.environment import environment
from api.errors import Problem
from api.jobs import queue
from api.jobs.models import AcceleratorLease, Attempt, Event, Job, ReaperPass, Worker
from api.jobs.schemas import Incoming
from api.jobs.services.budgets import failure_columns, worker_end_record
from api.jobs.states import LIVE, Outcome, State, Stop
from api.jobs.transitions import IDLE, event_add, job_lock, job_move
from foundation.protocol import SENTENCES
from trainers.contract.errors import Reason, ReasonCode
from trainers.contract.errors import reason as reason_of
from trainers.contract.spec import MAX_BIGINT, MAX_INT

JOB_FIELDS = ("state", "stop_requested", "control_seq", "control_command", "control_obeyed")
"""What a heartbeat reads of the job."""


class Heartbeat(Incoming):
    fence: int = Field(ge=1, le=MAX_INT)
    progress_seq: int = Field(0, ge=0, le=MAX_BIGINT)
    """Seq of the trainer's last event."""
    phase: str = Field("", max_length=100)
    """Before the first step: what the attempt does. One that this API does not know is ignored."""


def attempt_heartbeat(*, attempt_id: Any, heartbeat: Heartbeat) -> Attempt:
    """Renews the lease, also one that expired without being reaped. Returns the attempt with the fields of its job that
    the response needs. Raises Problem(409 fenced)."""
    attempt = _renew(attempt_id, heartbeat)
    is_starting = attempt.job.state == State.CLAIMED
    if is_starting and heartbeat.phase in SENTENCES and heartbeat.phase != attempt.phase:
        _phase_record(attempt_id, heartbeat.phase)
    return attempt


@transaction.atomic
def _renew(attempt_id: Any, heartbeat: Heartbeat) -> Attempt:
    live = Attempt.objects.filter(pk=attempt_id, fence=heartbeat.fence, ended_at=None)
    locked = live.select_for_update(of=("self",)).select_related("job", "worker")
    attempt = locked.only("phase", "progress_seq", "worker__draining", *(f"job__{name}" for name in JOB_FIELDS)).first()
    if attempt is None:
        raise Problem("fenced", "This attempt no longer owns its job.", status=409, hint="Kill the process tree.")
    at = now()  # read under the lock: waiting for it must not shorten the lease
    values: dict[str, Any] = {"lease_expires_at": at + timedelta(seconds=environment().lease_seconds)}
    if attempt.progress_seq < heartbeat.progress_seq:
        values |= {"progress_seq": heartbeat.progress_seq, "progress_at": at}
    live.update(**values)
    return attempt


@transaction.atomic
def _phase_record(attempt_id: Any, phase: str) -> None:
    """In a transaction of its own: an event needs the job's row locked before the attempt's."""
    job, attempt = live_lock(attempt_id)
    if job.state == State.CLAIMED and attempt.phase != phase:
        Attempt.objects.filter(pk=attempt.pk).update(phase=phase)
        event_add(job=job, kind="phase", data={"phase": phase}, at=now(), attempt=attempt)


def live_lock(
    attempt_id: Any, *, job_fields: Sequence[str] = (), attempt_fields: Sequence[str] = ()
) -> tuple[Job, Attempt]:
    """Job and attempt, locked in this order. Raises Problem(410) if the attempt has ended.

    With names, other fields are read on first access; without names, all are read at once.
    """
    jobs = Job.objects.only(*job_fields) if job_fields else Job.objects.all()
    attempts = Attempt.objects.only("ended_at", "outcome", *attempt_fields) if attempt_fields else Attempt.objects.all()
    job = jobs.select_for_update(of=("self",)).get(attempts=attempt_id)
    attempt = attempts.select_for_update().get(pk=attempt_id)
    require_live(attempt)
    return job, attempt


def require_live(attempt: Attempt) -> None:
    """Raises Problem(410) if the attempt has ended."""
    if attempt.ended_at is not None:
        raise ended_problem(attempt.ended_at, attempt.outcome)


def ended_problem(ended_at: datetime, outcome: str) -> Problem:
    return Problem("attempt_ended", f"The attempt ended as {outcome} at {ended_at:%H:%M:%S} UTC.", status=410)


def attempt_end(
    *,
    job: Job,
    attempt: Attempt,
    outcome: Outcome,
    reason: Reason | None,
    by: str,
    at: datetime,
    **values: Any,
) -> bool:
    """Ends the attempt by a guarded update and moves its job. False: another call was first and nothing changed.

    The caller holds the lock on `job`.
    """
    columns = {"outcome": outcome, "reason": reason and reason.model_dump(mode="json"), "ended_at": at, **values}
    if Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(**columns) != 1:
        return False
    attempt.refresh_from_db()
    AcceleratorLease.objects.filter(attempt=attempt).delete()
    if outcome == Outcome.LOST:
        Job.objects.filter(pk=job.pk).update(losses_without_checkpoint=F("losses_without_checkpoint") + 1)
        job.refresh_from_db()
    worker_end_record(attempt=attempt, outcome=outcome, reason=reason, at=at)
    to, job_reason, job_columns = _next_state(job, attempt, outcome, reason, at)
    details = _event_details(job, attempt, to)
    job_columns = {**_columns_after(to), **job_columns}
    job_move(job=job, to=to, by=by, at=at, reason=job_reason, attempt=attempt, event_data=details, **job_columns)
    if to == State.QUEUED and job.not_before is None:
        transaction.on_commit(lambda: queue.wake(job.pool))
    return True


def _next_state(
    job: Job, attempt: Attempt, outcome: Outcome, reason: Reason | None, at: datetime
) -> tuple[State, Reason | None, dict[str, Any]]:
    """The job's next state, its reason, and further columns to set."""
    stop = Stop(job.stop_requested)
    if outcome == Outcome.SUCCEEDED:
        return State.SUCCEEDED, None, {}
    if stop == Stop.CANCEL:
        return State.CANCELLED, reason if outcome == Outcome.FAILED else reason_of(ReasonCode.CANCELLED), {}
    if outcome == Outcome.FAILED:
        assert reason is not None, "a failed attempt has a reason"
        columns = failure_columns(job=job, attempt=attempt, reason=reason, at=at)
        if columns is None:
            return State.FAILED, reason, {}
        return (State.PAUSED, reason, {}) if stop == Stop.PAUSE else (State.QUEUED, reason, columns)
    if stop == Stop.PAUSE:
        return State.PAUSED, reason_of(ReasonCode.PAUSED), {}
    if outcome == Outcome.LOST and job.losses_without_checkpoint >= environment().max_losses:
        return State.FAILED, reason_of(ReasonCode.POISON, detail=reason.message if reason else ""), {}
    return State.QUEUED, reason, {"not_before": None}


def _event_details(job: Job, attempt: Attempt, to: State) -> dict[str, Any]:
    """What the job's event holds beside its new state: how the attempt ended, and where the next one starts."""
    details: dict[str, Any] = {"attempt": attempt.n, "outcome": attempt.outcome}
    if to != State.QUEUED:
        return details
    job.refresh_from_db(fields=["failed_tries", "checkpoint"])
    details["next_step"] = job.checkpoint.step if job.checkpoint else 0
    if attempt.outcome == Outcome.FAILED:
        return details | {"tries": job.failed_tries, "max_tries": environment().max_tries}
    if attempt.outcome == Outcome.LOST:
        return details | {"tries": job.losses_without_checkpoint, "max_tries": environment().max_losses}
    return details


def _columns_after(to: State) -> dict[str, Any]:
    return IDLE if to != State.QUEUED else IDLE | {"stop_requested": Stop.NONE}


def attempts_reap() -> int:
    """Ends attempts of silent workers as lost and returns their number. Any number of reapers may run at once.

    A gap since the last pass first extends all live leases by its length.
    """
    at = _reaper_pass()
    deadline = at - timedelta(seconds=environment().reap_grace_seconds)
    silent = Attempt.objects.filter(ended_at=None, lease_expires_at__lt=deadline).values_list("pk", flat=True)
    return sum(_reap(attempt_id, deadline, at) for attempt_id in list(silent))


@transaction.atomic
def _reaper_pass() -> datetime:
    """The time of this pass. While no reaper ran, workers may have been unable to renew either: restart, suspend, clock
    step. The clock is read under the row's lock: otherwise a reaper that waited for it would record an older time.
    """
    last, created = ReaperPass.objects.select_for_update().get_or_create(pk=1, defaults={"at": now()})
    at = now()
    gap = at - last.at
    if not created and gap > timedelta(seconds=environment().reap_gap_seconds):
        later = {"lease_expires_at": F("lease_expires_at") + gap, "progress_at": F("progress_at") + gap}
        extended = Attempt.objects.filter(ended_at=None).update(**later)
        data = {"gap_seconds": gap.total_seconds(), "attempts": extended}
        audit_add(actor="reaper", kind="leases_extended", object="reaper", at=at, data=data)
    _times_limit(at)
    last.at = at
    last.save(update_fields=["at"])
    return at


def _times_limit(at: datetime) -> None:
    """After the clock went back: no lease reaches further than one from now, and no worker was last seen in the
    future."""
    longest = at + timedelta(seconds=environment().lease_seconds)
    Attempt.objects.filter(ended_at=None, lease_expires_at__gt=longest).update(lease_expires_at=longest)
    Worker.objects.filter(last_seen__gt=at).update(last_seen=at)


@transaction.atomic
def _reap(attempt_id: Any, deadline: datetime, at: datetime) -> bool:
    """`deadline` is that of the pass: a reaper that was suspended since then does not count the time it lost."""
    job = job_lock(Attempt.objects.values_list("job", flat=True).get(pk=attempt_id))
    attempt = Attempt.objects.select_for_update().filter(pk=attempt_id, ended_at=None).first()
    if attempt is None or attempt.lease_expires_at >= deadline:
        return False
    expired = f"{attempt.lease_expires_at:%H:%M:%S}"
    message = f"Worker {attempt.worker.host} stopped answering; its lease expired at {expired} UTC."
    lost = reason_of(ReasonCode.WORKER_LOST, message)
    return attempt_end(job=job, attempt=attempt, outcome=Outcome.LOST, reason=lost, by="reaper", at=at)


def stuck_end() -> int:
    """Ends attempts that their workers do not end, and returns their number: a stop that is not obeyed in time, or no
    progress for very long."""
    at = now()
    return sum(_stuck_end(job_id, at) for job_id in Job.objects.filter(state__in=LIVE).values_list("pk", flat=True))


@transaction.atomic
def _stuck_end(job_id: Any, at: datetime) -> bool:
    job = job_lock(job_id)
    attempt = job.attempts.filter(ended_at=None).first()
    if attempt is None:
        return False
    if job.stop_requested:
        stops = Event.objects.filter(job=job, kind="stopping").order_by("-seq")
        requested_at = stops.values_list("time", flat=True).first()
        limit = timedelta(seconds=environment().stop_grace_seconds + environment().stop_limit_seconds)
        if requested_at is not None and at - requested_at > limit:
            message = f"The worker did not obey the {job.stop_requested} in time."
            attempt_end_forced(job=job, by="reaper", at=at, message=message)
            return True
    if at - (attempt.progress_at or attempt.started_at) <= timedelta(seconds=environment().stuck_seconds):
        return False
    message = f"The attempt made no progress for {environment().stuck_seconds / 3600:g} hours."
    stuck = reason_of(ReasonCode.NO_PROGRESS, message)
    return attempt_end(job=job, attempt=attempt, outcome=Outcome.FAILED, reason=stuck, by="reaper", at=at)


def attempt_end_forced(*, job: Job, by: str, at: datetime, message: str) -> None:
    """Ends the live attempt of a job without its worker, as the job's requested stop.

    The end fences the worker: its next heartbeat is refused, so it kills the trainer, and its finish changes nothing.
    Until its lease expires it may still compute, so the job starts nowhere before that (`control.zombie_until`).
    """
    attempt: Attempt = job.attempts.get(ended_at=None)
    code = ReasonCode.CANCELLED if job.stop_requested == Stop.CANCEL else ReasonCode.PAUSED
    data = {"attempt": str(attempt.pk), "worker": str(attempt.worker_id), "message": message}
    audit_add(actor=by, kind="attempt_forced", object=f"job:{job.pk}", project_id=job.project_id, at=at, data=data)
    reason = reason_of(code, message)
    attempt_end(job=job, attempt=attempt, outcome=Outcome.STOPPED, reason=reason, by=by, at=at)
