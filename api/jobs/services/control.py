"""What a user asks of a job: cancel, pause, resume, save now, sample now."""

from datetime import datetime, timedelta
from typing import Any, Literal

from django.db import transaction

from api.audit.clock import now
from api.audit.services import audit_add
from api.environment import environment
from api.errors import Problem
from api.jobs import queue
from api.jobs.models import LIVE, Job, Outcome, State, Stop
from api.jobs.services.job_inputs import inputs_hold
from api.jobs.services.job_outputs import params_of
from api.jobs.transitions import event_add, job_lock, job_move, state_problem
from trainers.contract.errors import ReasonCode, reason
from trainers.contract.events import Warning_

Command = Literal["save_now", "sample_now"]


@transaction.atomic
def job_cancel(*, job_id: Any, by: str) -> Job:
    """Queued and paused jobs are cancelled at once; a live one is asked to stop. Cancelling twice is fine."""
    job = job_lock(job_id)
    if job.state in LIVE:
        return _stop(job, Stop.CANCEL, by)
    if job.state != State.CANCELLED:
        job_move(job=job, to=State.CANCELLED, by=by, at=now(), reason=reason(ReasonCode.CANCELLED), **IDLE)
    return job


@transaction.atomic
def job_pause(*, job_id: Any, by: str) -> Job:
    """As cancel, but the job is meant to be resumed. A job that is being cancelled stays so."""
    job = job_lock(job_id)
    if job.state in LIVE and job.stop_requested == Stop.CANCEL:
        raise Problem("job_state", f"Job {job.name} is being cancelled.", status=409, fields={"state": [job.state]})
    if job.state in LIVE:
        return _stop(job, Stop.PAUSE, by)
    if job.state != State.PAUSED:
        job_move(job=job, to=State.PAUSED, by=by, at=now(), reason=reason(ReasonCode.PAUSED), **IDLE)
    return job


@transaction.atomic
def job_resume(*, job_id: Any, by: str) -> Job:
    """Back to the queue; the next attempt goes on from the last published checkpoint. A queued job that waits for its
    next try starts at once. Raises Problem(409), also where an input was deleted meanwhile."""
    job = job_lock(job_id)
    if job.state == State.QUEUED:
        return _try_now(job, by)
    if job.state in LIVE:
        raise state_problem(job, State.QUEUED)
    inputs_hold(job.inputs.values_list("role", "name", "key"))
    job.avoided.all().delete()
    at = now()
    fresh = FRESH | {"stop_requested": Stop.NONE, "not_before": zombie_until(job, at)}
    job_move(job=job, to=State.QUEUED, by=by, at=at, **IDLE | fresh)
    if job.checkpoint is None and job.artifacts.exclude(damaged="").exists():
        message = "No checkpoint of this job can be used any more; it starts again from step 0."
        event_add(job=job, kind="warning", data=Warning_(message=message).model_dump(), at=at)
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


@transaction.atomic
def job_control(*, job_id: Any, command: Command, by: str) -> Job:
    """Asks a live trainer for a checkpoint or samples; the newest command wins.

    Raises Problem: 409 where the job does not run, 400 for samples of a job that shows none.
    """
    job = job_lock(job_id)
    if job.state not in LIVE or job.stop_requested:
        state = "stopping" if job.stopping else job.state
        raise Problem(
            "job_state",
            f"Job {job.name} is {state}; {command} needs a running one.",
            status=409,
            fields={"state": [state]},
        )
    if command == "sample_now" and not params_of(job).shows():
        raise Problem(
            "invalid",
            f"Job {job.name} has nothing to show: sample_now needs eval prompts or a validation_split.",
            hint="Submit the job again with prompts to sample.",
            fields={"command": ["this job has neither eval prompts nor a validation_split"]},
        )
    job.control_seq += 1
    job.control_command = command
    job.save(update_fields=["control_seq", "control_command"])
    audit_add(
        actor=by,
        kind=f"job_{command}",
        object=f"job:{job.pk}",
        project_id=job.project_id,
        at=now(),
        data={"seq": job.control_seq},
    )
    return job


FRESH: dict[str, Any] = {"failed_tries": 0, "not_before": None, "losses_without_checkpoint": 0}
"""Columns of a job that a person queued again."""
IDLE: dict[str, Any] = {"passed_over_since": None, "reserved_worker": None}
"""A job that leaves the queue holds no place in it."""


def zombie_until(job: Job, at: datetime) -> datetime | None:
    """Until when the worker of the last attempt may still compute, where that attempt was ended without it."""
    last = job.attempts.order_by("-n").first()
    if last is None or last.finish_digest or last.outcome not in (Outcome.STOPPED, Outcome.FAILED):
        return None
    until = last.lease_expires_at + timedelta(seconds=environment().reap_grace_seconds)
    return until if until > at else None


def _try_now(job: Job, by: str) -> Job:
    if job.not_before is None:
        return job
    at = now()
    job.not_before = zombie_until(job, at)
    job.save(update_fields=["not_before"])
    audit_add(actor=by, kind="job_try_now", object=f"job:{job.pk}", project_id=job.project_id, at=at)
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


def _stop(job: Job, stop: Stop, by: str) -> Job:
    if job.stop_requested == stop:
        return job
    at = now()
    job.stop_requested = stop
    job.save(update_fields=["stop_requested"])
    event_add(job=job, kind="stopping", data={"stop": stop}, at=at)
    audit_add(
        actor=by,
        kind=f"job_{stop}_requested",
        object=f"job:{job.pk}",
        project_id=job.project_id,
        at=at,
        data={"fence": job.fence},
    )
    return job
