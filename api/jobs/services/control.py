"""What a user does to an existing job: cancel, pause, resume, save or sample now, edit, delete; and `hold` to all."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from django.db import transaction
from pydantic import Field, StringConstraints

from api.audit.clock import now
from api.catalog.models import KINDS, VersionState
from api.catalog.removals import removal_add
from api.environment import environment
from api.errors import Problem
from api.jobs import queue
from api.jobs.models import Attempt, Job, JobLabel
from api.jobs.selectors import params_of
from api.jobs.services.attempt_lifecycle import attempt_end, attempt_end_forced
from api.jobs.services.inputs import inputs_hold
from api.jobs.states import LIVE, Outcome, State, Stop
from api.jobs.transitions import IDLE, event_add, job_audit, job_lock, job_move, state_problem
from foundation.plain_text import PlainText
from trainers.contract.errors import ReasonCode, reason
from trainers.contract.events import Warning_
from trainers.contract.spec import Contract

Command = Literal["save_now", "sample_now"]
FRESH: dict[str, Any] = {"failed_tries": 0, "not_before": None, "losses_without_checkpoint": 0}
"""Columns of a job that a person queued again."""
DELETABLE = (State.SUCCEEDED, State.FAILED, State.CANCELLED)
HOLD_ACTOR = "hold"
Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,49}$")]


class JobEdit(Contract):
    """What is left out stays."""

    priority: int | None = Field(None, ge=-1000, le=1000)
    """Higher goes first; while the job is queued."""
    notes: PlainText | None = Field(None, max_length=10_000)
    labels: list[Label] | None = Field(None, max_length=20)
    """All of them: those that are not named go."""


@transaction.atomic
def job_cancel(*, job_id: Any, by: str) -> Job:
    """Cancels a queued or paused job at once and asks a live one to stop. Idempotent."""
    job = job_lock(job_id)
    if job.state in LIVE:
        return _stop(job, Stop.CANCEL, by)
    if job.state != State.CANCELLED:
        job_move(job=job, to=State.CANCELLED, by=by, at=now(), reason=reason(ReasonCode.CANCELLED), **IDLE)
    return job


@transaction.atomic
def job_cancel_forced(*, job_id: Any, by: str) -> Job:
    """As `job_cancel`, but cancels a live job now, whatever its worker does. What was not published is lost."""
    job = job_cancel(job_id=job_id, by=by)
    if job.state in LIVE:
        message = "The job was cancelled by force, without waiting for its worker."
        attempt_end_forced(job=job, by=by, at=now(), message=message)
    return job


@transaction.atomic
def job_pause(*, job_id: Any, by: str) -> Job:
    """As `job_cancel`, but for a later resume. Raises Problem(409) for a job that is being cancelled."""
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
    """Queues the job again; the next attempt continues from the last published checkpoint. A queued job that waits for
    its next try starts at once. Raises Problem(409), also if an input was deleted meanwhile."""
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
    """Requests a checkpoint or samples from a live trainer; a newer command replaces an older one.

    Raises Problem: 409 if the job does not run, 400 for samples of a job that has none.
    """
    job = job_lock(job_id)
    if job.state not in LIVE or job.stop_requested:
        state = "stopping" if job.stopping else job.state
        message = f"Job {job.name} is {state}; {command} needs a running one."
        raise Problem("job_state", message, status=409, fields={"state": [state]})
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
    job_audit(job=job, kind=f"job_{command}", by=by, at=now(), data={"seq": job.control_seq})
    return job


@transaction.atomic
def job_edit(*, job_id: Any, edit: JobEdit, by: str) -> Job:
    """Changes priority, notes and labels. Raises Problem 409 for the priority of a job that is no longer queued."""
    job = job_lock(job_id)
    changes = {name: value for name, value in edit.model_dump(exclude_none=True).items() if name != "notes"}
    if edit.priority not in (None, job.priority):
        _require_queued(job)
        job.priority = edit.priority
    if edit.notes is not None:
        job.notes = edit.notes
    job.save(update_fields=["priority", "notes"])
    if edit.labels is not None:
        job.labels.all().delete()
        JobLabel.objects.bulk_create(JobLabel(job=job, name=name) for name in sorted(set(edit.labels)))
    job_audit(job=job, kind="job_edited", by=by, at=now(), data=changes)
    return job


@transaction.atomic
def job_delete(*, job_id: Any, by: str) -> None:
    """Deletes the job with all rows; a later sweep removes its files. Raises Problem 409 for a job that has not ended
    for good, or whose adaptor or version still exists."""
    job = job_lock(job_id)
    if job.state not in DELETABLE:
        message = f"Job {job.name} is {job.state}; only an ended one can be deleted."
        raise Problem("job_state", message, status=409, hint="Cancel it first.", fields={"state": [job.state]})
    _require_unused(job)
    removal_add(prefix=f"jobs/{job.pk}/")
    data = {"name": job.name, "method": job.method, "state": job.state}
    job_audit(job=job, kind="job_deleted", by=by, at=now(), data=data)
    job.delete()


def jobs_hold() -> int:
    """Pauses every queued and live job of a restored copy, so that it runs nothing that the original may still run.

    Returns their number. Each continues from its last checkpoint when a person resumes it.
    """
    job_ids = Job.objects.filter(state__in=(*LIVE, State.QUEUED)).values_list("pk", flat=True)
    return sum(_hold(job_id) for job_id in list(job_ids))


def zombie_until(job: Job, at: datetime) -> datetime | None:
    """Until when the worker of the last attempt may still compute, if that attempt was ended without it."""
    last = job.attempts.order_by("-n").first()
    if last is None or last.finish_digest or last.outcome not in (Outcome.STOPPED, Outcome.FAILED):
        return None
    until = last.lease_expires_at + timedelta(seconds=environment().reap_grace_seconds)
    return until if until > at else None


def _stop(job: Job, stop: Stop, by: str) -> Job:
    if job.stop_requested == stop:
        return job
    at = now()
    job.stop_requested = stop
    job.save(update_fields=["stop_requested"])
    event_add(job=job, kind="stopping", data={"stop": stop}, at=at)
    job_audit(job=job, kind=f"job_{stop}_requested", by=by, at=at, data={"fence": job.fence})
    return job


def _try_now(job: Job, by: str) -> Job:
    if job.not_before is None:
        return job
    at = now()
    job.not_before = zombie_until(job, at)
    job.save(update_fields=["not_before"])
    job_audit(job=job, kind="job_try_now", by=by, at=at)
    transaction.on_commit(lambda: queue.wake(job.pool))
    return job


def _require_queued(job: Job) -> None:
    if job.state != State.QUEUED:
        message = f"Job {job.name} is {job.state}; its priority counts only while it is queued."
        raise Problem("job_state", message, status=409, fields={"state": [job.state]})


def _require_unused(job: Job) -> None:
    if adaptors := [str(adaptor) for adaptor in job.adaptors.all()]:
        message = f"Job {job.name} made {', '.join(adaptors)}, which lies among its files."
        raise Problem("in_use", message, status=409, hint="Delete the adaptor first.", fields={"adaptors": [*adaptors]})
    if versions := _versions_of(job):
        message = f"Job {job.name} fetched {', '.join(versions)}, which lies among its files."
        raise Problem("in_use", message, status=409, hint="Delete the version first.", fields={"versions": [*versions]})


def _versions_of(job: Job) -> list[str]:
    """Versions whose files are among the job's own, but refused ones, which nobody needs."""
    tables = [rows.objects.select_related("record").exclude(state=VersionState.REFUSED) for _, rows in KINDS.values()]
    return [str(version) for rows in tables for version in rows.filter(key__startswith=f"jobs/{job.pk}/")]


@transaction.atomic
def _hold(job_id: object) -> bool:
    job = job_lock(job_id)
    if job.state == State.QUEUED:
        job_pause(job_id=job_id, by=HOLD_ACTOR)
        return True
    attempt = Attempt.objects.filter(job=job, ended_at=None).first()
    if job.state not in LIVE or attempt is None:
        return False
    job.stop_requested = Stop.PAUSE
    job.save(update_fields=["stop_requested"])
    lost = reason(ReasonCode.WORKER_LOST, "The platform was restored from a backup.")
    attempt_end(job=job, attempt=attempt, outcome=Outcome.LOST, reason=lost, by=HOLD_ACTOR, at=now())
    return True
