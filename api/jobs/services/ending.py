"""An attempt ends: what becomes of its job. Used by finish, by the reaper and by a worker's new boot."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from api.environment import environment
from api.jobs import queue
from api.jobs.models import AcceleratorLease, Attempt, Job, Outcome, State, Stop
from api.jobs.services.budgets import failure_columns, worker_record_end
from api.jobs.services.control import IDLE
from api.jobs.transitions import job_move
from trainers.contract.errors import Reason, ReasonCode
from trainers.contract.errors import reason as reason_of


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
    """Ends the attempt by a guarded update and moves its job. False: someone was first, nothing changed.

    `job` is locked by the caller.
    """
    told = {"outcome": outcome, "reason": reason and reason.model_dump(mode="json"), "ended_at": at, **values}
    if Attempt.objects.filter(pk=attempt.pk, ended_at=None).update(**told) != 1:
        return False
    attempt.refresh_from_db()
    AcceleratorLease.objects.filter(attempt=attempt).delete()
    if outcome == Outcome.LOST:
        Job.objects.filter(pk=job.pk).update(losses_without_checkpoint=F("losses_without_checkpoint") + 1)
        job.refresh_from_db()
    worker_record_end(attempt=attempt, outcome=outcome, reason=reason, at=at)
    to, why, columns = _next_state(job, attempt, outcome, reason, at)
    job_move(
        job=job, to=to, by=by, at=at, reason=why, attempt=attempt, told=_told(job, attempt, to), **_after(to), **columns
    )
    if to == State.QUEUED and job.not_before is None:
        transaction.on_commit(lambda: queue.wake(job.pool))
    return True


def _next_state(
    job: Job, attempt: Attempt, outcome: Outcome, reason: Reason | None, at: datetime
) -> tuple[State, Reason | None, dict[str, Any]]:
    """Where the job goes, why, and more of its columns."""
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


def _told(job: Job, attempt: Attempt, to: State) -> dict[str, Any]:
    """What followers of the job read beside its new state: how the attempt ended, and where the next one begins."""
    told: dict[str, Any] = {"attempt": attempt.n, "outcome": attempt.outcome}
    if to != State.QUEUED:
        return told
    job.refresh_from_db(fields=["failed_tries", "checkpoint"])
    told["next_step"] = job.checkpoint.step if job.checkpoint else 0
    if attempt.outcome == Outcome.FAILED:
        return told | {"tries": job.failed_tries, "max_tries": environment().max_tries}
    if attempt.outcome == Outcome.LOST:
        return told | {"tries": job.losses_without_checkpoint, "max_tries": environment().max_losses}
    return told


def _after(to: State) -> dict[str, Any]:
    return IDLE if to != State.QUEUED else IDLE | {"stop_requested": Stop.NONE}
