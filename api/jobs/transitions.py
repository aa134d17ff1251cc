"""The one table of allowed moves and the one function that makes them. Call within a transaction."""

from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import F

from api.audit.services import audit_add
from api.errors import Problem
from api.jobs.models import ENDED, Attempt, Event, Job, State
from trainers.contract.errors import Reason

MOVES: dict[State, frozenset[State]] = {
    State.QUEUED: frozenset({State.CLAIMED, State.CANCELLED, State.PAUSED}),
    State.CLAIMED: frozenset(
        {State.RUNNING, State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED}
    ),
    State.RUNNING: frozenset({State.QUEUED, State.SUCCEEDED, State.FAILED, State.CANCELLED, State.PAUSED}),
    State.PAUSED: frozenset({State.QUEUED, State.CANCELLED}),
    State.CANCELLED: frozenset({State.QUEUED}),
    State.FAILED: frozenset({State.QUEUED}),
    State.SUCCEEDED: frozenset(),
}


def job_lock(job_id: Any) -> Job:
    """The job's row, locked until the transaction ends. Raises Job.DoesNotExist."""
    assert transaction.get_connection().in_atomic_block, "job_lock is for transactions"
    return Job.objects.select_for_update().get(pk=job_id)


def job_move(
    *,
    job: Job,
    to: State,
    by: str,
    at: datetime,
    reason: Reason | None = None,
    attempt: Attempt | None = None,
    told: dict[str, Any] | None = None,
    **values: Any,
) -> None:
    """Moves the job by a guarded update, with its event and its audit row. Raises Problem(409) when it cannot be.

    `told` is what the event says beside the new state.
    """
    sources = [source for source, targets in MOVES.items() if to in targets]
    values |= {"state": to, "reason": reason and reason.model_dump(mode="json")}
    values |= {"ended": at if to in ENDED else None}
    if to == State.QUEUED:
        values["queued_at"] = at
    moved = Job.objects.filter(pk=job.pk, state__in=sources).update(**values)
    job.refresh_from_db()
    if moved != 1:
        raise state_problem(job, to)
    data: dict[str, Any] = {"state": to, "reason": job.reason, **(told or {})}
    if to == State.QUEUED and job.not_before:
        data["not_before"] = job.not_before.isoformat()
    event_add(job=job, kind="state", data=data, at=at, attempt=attempt)
    audited = {"fence": job.fence, "reason": job.reason}
    audit_add(actor=by, kind=f"job_{to}", object=f"job:{job.pk}", project_id=job.project_id, at=at, data=audited)


def state_problem(job: Job, to: str) -> Problem:
    return Problem(
        "job_state",
        f"Job {job.name} is {job.state}, so it cannot become {to}.",
        status=409,
        fields={"state": [job.state]},
    )


def event_add(
    *,
    job: Job,
    kind: str,
    data: dict[str, Any],
    at: datetime,
    attempt: Attempt | None = None,
    attempt_seq: int | None = None,
) -> Event:
    """The job's next event; its seq is taken under the row's lock, so that followers see no holes."""
    Job.objects.filter(pk=job.pk).update(event_seq=F("event_seq") + 1)
    job.refresh_from_db(fields=["event_seq"])
    return Event.objects.create(
        job=job, seq=job.event_seq, attempt=attempt, attempt_seq=attempt_seq, kind=kind, time=at, data=data
    )
