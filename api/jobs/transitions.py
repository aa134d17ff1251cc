"""Moves a job between its states, with the event and the audit row of each move. Call within a transaction."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from api.audit.models import audit_add
from api.errors import Problem
from api.jobs.models import Attempt, Event, Job
from api.jobs.states import ENDED, MOVES, State
from trainers.contract.errors import Reason

IDLE: dict[str, Any] = {"passed_over_since": None, "reserved_worker": None}
"""Columns of a job that leaves the queue: it holds no place there."""


def job_lock(job_id: Any) -> Job:
    """The job's row, locked until the transaction ends. Raises Job.DoesNotExist."""
    assert transaction.get_connection().in_atomic_block, "job_lock needs a transaction"
    return Job.objects.select_for_update().get(pk=job_id)


def job_move(
    *,
    job: Job,
    to: State,
    by: str,
    at: datetime,
    reason: Reason | None = None,
    attempt: Attempt | None = None,
    event_data: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Moves the job by a guarded update, with its event and its audit row. Raises Problem(409) if MOVES forbids it.

    `event_data`: what the event holds beside the new state. `values`: further columns of the job.
    """
    sources = [source for source, targets in MOVES.items() if to in targets]
    values |= {"state": to, "reason": reason and reason.model_dump(mode="json")}
    values |= {"ended": at if to in ENDED else None}
    if to == State.QUEUED:
        values["queued_at"] = at
    values["event_seq"] = F("event_seq") + 1
    num_moved = Job.objects.filter(pk=job.pk, state__in=sources).update(**values)
    job.refresh_from_db()
    if num_moved != 1:
        raise state_problem(job, to)
    data: dict[str, Any] = {"state": to, "reason": job.reason, **(event_data or {})}
    if to == State.QUEUED and job.not_before:
        data["not_before"] = job.not_before.isoformat()
    Event.objects.create(job=job, seq=job.event_seq, attempt=attempt, kind="state", time=at, data=data)
    job_audit(job=job, kind=f"job_{to}", by=by, at=at, data={"fence": job.fence, "reason": job.reason})


def state_problem(job: Job, to: str) -> Problem:
    return Problem(
        "job_state",
        f"Job {job.name} is {job.state}, so it cannot become {to}.",
        status=409,
        fields={"state": [job.state]},
    )


def job_audit(*, job: Job, kind: str, by: str, at: datetime, data: dict[str, Any] | None = None) -> None:
    audit_add(actor=by, kind=kind, object=f"job:{job.pk}", project_id=job.project_id, at=at, data=data)


def event_add(
    *,
    job: Job,
    kind: str,
    data: dict[str, Any],
    at: datetime,
    attempt: Attempt | None = None,
    attempt_seq: int | None = None,
) -> Event:
    """The job's next event; its seq is assigned under the row's lock, so that followers see no gaps."""
    Job.objects.filter(pk=job.pk).update(event_seq=F("event_seq") + 1)
    job.refresh_from_db(fields=["event_seq"])
    return Event.objects.create(
        job=job, seq=job.event_seq, attempt=attempt, attempt_seq=attempt_seq, kind=kind, time=at, data=data
    )
