"""Records what a trainer says. Steps are folded into curves and the job's progress; the rest becomes events."""

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from pydantic import Field

from api.jobs.clock import now
from api.jobs.metrics import EVENT_LAG_SECONDS
from api.jobs.models import Attempt, Job, Metric, State
from api.jobs.services.attempt import live_lock
from api.jobs.transitions import event_add, job_move
from trainers.events import Control, Event, Progress, Started, Step, Validation
from trainers.spec import Contract

MAX_EVENTS = 500


class EventBatch(Contract):
    first_seq: int = Field(ge=1)
    events: list[Event] = Field(max_length=MAX_EVENTS)


@transaction.atomic
def events_record(*, attempt_id: Any, batch: EventBatch) -> int:
    """The seq that is expected next. What was recorded before is skipped; after a gap nothing is recorded."""
    _require_in_order(batch)
    job, attempt = live_lock(attempt_id)
    fresh = [event for event in batch.events if event.seq > attempt.event_seq]
    if not fresh or fresh[0].seq != attempt.event_seq + 1:
        return attempt.event_seq + 1
    at = now()
    points = []
    for event in fresh:
        points += _fold(job, attempt, event, at)
    Metric.objects.bulk_create(points, ignore_conflicts=True)
    EVENT_LAG_SECONDS.observe(max(0.0, at.timestamp() - fresh[0].time))
    attempt.event_seq = fresh[-1].seq
    if attempt.event_seq > attempt.progress_seq:
        attempt.progress_seq, attempt.progress_at = attempt.event_seq, at
    attempt.save(update_fields=["event_seq", "progress_seq", "progress_at", "last_step", "start_step"])
    job.save(update_fields=["progress", "control_obeyed"])
    return attempt.event_seq + 1


def _require_in_order(batch: EventBatch) -> None:
    for index, event in enumerate(batch.events):
        if event.seq != batch.first_seq + index:
            raise ValueError(
                f"events[{index}].seq must be first_seq + {index} = {batch.first_seq + index}, got {event.seq}"
            )


def _fold(job: Job, attempt: Attempt, event: Event, at: datetime) -> list[Metric]:
    """Applies one event to `job` and `attempt` (saved by the caller) and gives the points of curves that it holds."""
    data = event.data
    told = data.model_dump(mode="json")
    if isinstance(data, Step | Progress):
        job.progress = told
    else:
        progress, obeyed = job.progress, job.control_obeyed
        event_add(job=job, kind=data.kind, data=told, at=at, attempt=attempt, attempt_seq=event.seq)
        if isinstance(data, Started) and job.state == State.CLAIMED:
            job_move(job=job, to=State.RUNNING, by=f"attempt:{attempt.pk}", at=at, attempt=attempt)
        job.progress, job.control_obeyed = progress, obeyed
    match data:
        case Started(step=step):
            attempt.start_step = step
        case Control(seq=seq):
            job.control_obeyed = max(job.control_obeyed, seq)
        case Step(step=step):
            attempt.last_step = step
            rate = {f"{data.unit}_per_second": data.per_second, "peak_memory_bytes": float(data.peak_memory_bytes)}
            return list(_points(attempt, step, {**data.metrics, **rate}))
        case Validation(step=step):
            named = {f"validation/{name.removeprefix('validation/')}": value for name, value in data.metrics.items()}
            return list(_points(attempt, step, named))
    return []


def _points(attempt: Attempt, step: int, values: dict[str, float]) -> Iterable[Metric]:
    """A value that is not finite is no point: the trainer refuses such a step by itself."""
    return (
        Metric(attempt=attempt, name=name[:100], step=step, value=value)
        for name, value in values.items()
        if math.isfinite(value)
    )
