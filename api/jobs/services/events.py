"""Records the events of a trainer: steps become points of curves and the job's progress, other kinds become rows."""

import math
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django.db import transaction
from prometheus_client import Histogram
from pydantic import Field

from api.audit.clock import now
from api.jobs.curves import Point, curves_thin, points_add
from api.jobs.models import Attempt, Job
from api.jobs.models import Event as JobEvent
from api.jobs.schemas import Incoming
from api.jobs.services.attempt_lifecycle import live_lock
from api.jobs.states import State
from api.jobs.transitions import job_move
from trainers.contract.events import Control, Event, Progress, Started, Step, Validation
from trainers.contract.spec import MAX_BIGINT

EVENT_LAG_SECONDS = Histogram(
    "anneal_event_lag_seconds",
    "From a trainer's event, by its worker's clock, to its row.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 300),
)
MAX_EVENTS = 500
THIN_EVERY = 1000
"""Events of an attempt between two looks at the length of its curves."""
JOB_FIELDS = ("state", "control_obeyed", "event_seq")
ATTEMPT_FIELDS = ("event_seq", "progress_seq", "progress_at", "last_step", "start_step")
"""The columns that recording reads. Reading wide rows (a job's spec) would dominate its cost."""


class EventBatch(Incoming):
    first_seq: int = Field(ge=1, le=MAX_BIGINT)
    events: list[Event] = Field(max_length=MAX_EVENTS)


@transaction.atomic
def events_record(*, attempt_id: Any, batch: EventBatch) -> int:
    """Returns the seq that is expected next. Skips events that are recorded already; after a gap it records nothing."""
    _require_in_order(batch)
    job, attempt = live_lock(attempt_id, job_fields=JOB_FIELDS, attempt_fields=ATTEMPT_FIELDS)
    fresh = [event for event in batch.events if event.seq > attempt.event_seq]
    if not fresh or fresh[0].seq != attempt.event_seq + 1:
        return attempt.event_seq + 1
    record = _Record(job, attempt, now())
    for event in fresh:
        record.fold(event)
    record.save(fresh[-1].seq)
    EVENT_LAG_SECONDS.observe(max(0.0, record.at.timestamp() - fresh[0].time))
    return attempt.event_seq + 1


def _require_in_order(batch: EventBatch) -> None:
    for index, event in enumerate(batch.events):
        if event.seq != batch.first_seq + index:
            raise ValueError(
                f"events[{index}].seq must be first_seq + {index} = {batch.first_seq + index}, got {event.seq}"
            )


class _Record:
    """The changes of one batch to a locked job and attempt; rows are collected and written together."""

    def __init__(self, job: Job, attempt: Attempt, at: datetime) -> None:
        self.at = at
        self._job, self._attempt = job, attempt
        self._rows: list[JobEvent] = []
        self._points: list[Point] = []

    def fold(self, event: Event) -> None:
        """Adds one event."""
        data = event.data
        if isinstance(data, Step | Progress):
            self._job.progress = data.model_dump(mode="json")
        else:
            self._add_row(event)
        match data:
            case Started(step=step):
                self._attempt.start_step = step
                if self._job.state == State.CLAIMED:
                    self._job_start()
            case Control(seq=seq):
                self._job.control_obeyed = max(self._job.control_obeyed, seq)
            case Step(step=step):
                self._attempt.last_step = step
                rate = {f"{data.unit}_per_second": data.per_second, "peak_memory_bytes": float(data.peak_memory_bytes)}
                self._points += _points(step, {**data.metrics, **rate})
            case Validation(step=step, metrics=metrics):
                prefixed = {f"validation/{name.removeprefix('validation/')}": value for name, value in metrics.items()}
                self._points += _points(step, prefixed)

    def save(self, event_seq: int) -> None:
        """`event_seq`: of the attempt's newest event."""
        self._save_job()
        attempt = self._attempt
        points_add(attempt, self._points)
        if event_seq // THIN_EVERY > attempt.event_seq // THIN_EVERY:
            curves_thin(attempt)
        attempt.event_seq = event_seq
        if attempt.event_seq > attempt.progress_seq:
            attempt.progress_seq, attempt.progress_at = attempt.event_seq, self.at
        attempt.save(update_fields=ATTEMPT_FIELDS)

    def _add_row(self, event: Event) -> None:
        """Assigns the seq: the job's row is locked."""
        self._job.event_seq += 1
        self._rows.append(
            JobEvent(
                job=self._job,
                seq=self._job.event_seq,
                attempt=self._attempt,
                attempt_seq=event.seq,
                kind=event.data.kind,
                time=self.at,
                data=event.data.model_dump(mode="json"),
            )
        )

    def _job_start(self) -> None:
        """Writes pending rows first: the move reads the job again and takes the next seq."""
        self._save_job()
        by = f"attempt:{self._attempt.pk}"
        job_move(job=self._job, to=State.RUNNING, by=by, at=self.at, attempt=self._attempt)

    def _save_job(self) -> None:
        JobEvent.objects.bulk_create(self._rows)
        self._rows = []
        self._job.save(update_fields=["progress", "control_obeyed", "event_seq"])


def _points(step: int, values: dict[str, float]) -> Iterable[Point]:
    """Without values that are not finite: the trainer itself refuses such a step."""
    return ((name[:100], step, value) for name, value in values.items() if math.isfinite(value))
