"""Hides what an attempt did past the step from which a later one resumed: the later attempt did it again."""

from collections.abc import Iterable
from typing import Any

from django.db.models import Q, QuerySet

from api.jobs.models import Artifact, Attempt, Event

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
