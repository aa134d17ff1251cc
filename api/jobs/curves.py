"""A job's curves, as many points of each as somebody wants to draw."""

from collections.abc import Sequence
from typing import Any

from django.db.models import BigIntegerField, Case, Count, F, Max, Min, Q, QuerySet, Value, When, Window
from django.db.models.functions import Cast, RowNumber

from api.jobs.models import Job, Metric
from api.jobs.superseded import reaches_of

Series = dict[str, list[tuple[int, float]]]
DEFAULT_POINTS = 2000
MIN_POINTS, MAX_POINTS = 4, 100_000


def curves(job: Job, names: Sequence[str] = (), *, num_points: int = DEFAULT_POINTS) -> Series:
    """[step, value] by metric, at most `num_points` each: exact for a shorter curve.

    A longer one is cut into stretches of equal length in steps, of which the lowest and the highest point stay, beside
    the first and the last of all: no peak is lost. Four queries, and no more rows than are given.
    """
    kept = points_of(job)
    kept = kept.filter(name__in=names) if names else kept
    spans = kept.order_by().values("name").annotate(count=Count("pk"), first=Min("step"), last=Max("step"))
    long = {span["name"]: span for span in spans if span["count"] > num_points}
    rows = list(_plain(kept.exclude(name__in=long)))
    if long:
        rows += _plain(_thinned(kept.filter(name__in=long), long, (num_points - 2) // 2))
    series: Series = {}
    for name, step, value in sorted(rows, key=lambda row: row[:2]):
        series.setdefault(name, []).append((step, value))
    return series


def points_of(job: Job) -> QuerySet[Metric]:
    """What an attempt did past the step that a later one resumed from is superseded."""
    kept = Q(pk__in=())
    for attempt, end in reaches_of([job.pk]).items():
        kept |= Q(attempt=attempt) if end is None else Q(attempt=attempt, step__lte=end)
    return Metric.objects.filter(kept)


def _plain(points: QuerySet[Metric]) -> QuerySet[Metric, tuple[str, int, float]]:
    return points.order_by("name", "step").values_list("name", "step", "value")


def _thinned(points: QuerySet[Metric], spans: dict[str, Any], num_stretches: int) -> QuerySet[Metric]:
    stretch = Case(
        *(when for name, span in spans.items() for when in _stretches(name, span, num_stretches)),
        output_field=BigIntegerField(),
    )
    parts = [F("name"), F("stretch")]
    lowest = Window(RowNumber(), partition_by=parts, order_by=[F("value").asc(), F("step").asc()])
    highest = Window(RowNumber(), partition_by=parts, order_by=[F("value").desc(), F("step").asc()])
    ranked = points.annotate(stretch=stretch).annotate(lowest=lowest, highest=highest)
    return ranked.filter(Q(lowest=1) | Q(highest=1))


def _stretches(name: str, span: dict[str, Any], num_stretches: int) -> list[When]:
    """The number of the stretch that a step lies in; the first and the last step are stretches of their own."""
    step = Cast("step", BigIntegerField())
    width = span["last"] - span["first"] + 1
    return [
        When(name=name, step=span["first"], then=Value(-1)),
        When(name=name, step=span["last"], then=Value(num_stretches)),
        When(name=name, then=(step - Value(span["first"])) * Value(num_stretches) / Value(width)),
    ]
