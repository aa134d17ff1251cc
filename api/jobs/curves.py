"""A job's curves: written point by point, thinned where they grow long, and once more to what a reader asks for."""

from collections.abc import Iterable, Sequence
from typing import Any

from django.db import connection
from django.db.models import BigIntegerField, Case, Count, F, Max, Min, Q, QuerySet, Value, When, Window
from django.db.models.functions import Cast, RowNumber

from api.jobs.models import Attempt, Job, Metric
from api.jobs.selectors import reaches_of

Series = dict[str, list[tuple[int, float]]]
DEFAULT_POINTS = 2000
MIN_POINTS, MAX_POINTS = 4, 100_000
MAX_STORED = 10_000
"""A curve of an attempt with more points is thinned to half of them."""
Point = tuple[str, int, float]
"""Name, step and value."""
POINTS_INSERT = "INSERT INTO jobs_metric (attempt_id, name, step, value) VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING"


def points_add(attempt: Attempt, points: Sequence[Point]) -> None:
    """Skips points that are recorded already. One prepared statement: objects of the ORM cost several times as much."""
    key = Attempt._meta.pk.get_db_prep_value(attempt.pk, connection)
    if points:
        with connection.cursor() as cursor:
            cursor.executemany(POINTS_INSERT, [(key, *point) for point in points])


def curves_thin(attempt: Attempt) -> None:
    """Thins the attempt's curves of more than MAX_STORED points as `curves` does: no peak is lost."""
    for span in _spans(Metric.objects.filter(attempt=attempt)):
        if span["count"] > MAX_STORED:
            points = Metric.objects.filter(attempt=attempt, name=span["name"])
            shown = _thinned(points, {span["name"]: span}, (MAX_STORED // 2 - 2) // 2)
            points.exclude(pk__in=shown.values("pk")).delete()


def curves(job: Job, names: Sequence[str] = (), *, num_points: int = DEFAULT_POINTS) -> Series:
    """[step, value] by metric, at most `num_points` each; a shorter curve is exact.

    A longer one keeps its first and last point, and the lowest and highest of each stretch of equal length in steps, so
    no peak is lost. Curves of more than MAX_STORED points were thinned in the same way when they were recorded. Four
    queries; reads no more rows than it returns.
    """
    points = points_of(job)
    points = points.filter(name__in=names) if names else points
    long = {span["name"]: span for span in _spans(points) if span["count"] > num_points}
    rows = list(_plain(points.exclude(name__in=long)))
    if long:
        rows += _plain(_thinned(points.filter(name__in=long), long, (num_points - 2) // 2))
    series: Series = {}
    for name, step, value in sorted(rows, key=lambda row: row[:2]):
        series.setdefault(name, []).append((step, value))
    return series


def points_of(job: Job) -> QuerySet[Metric]:
    """Without points past the step from which a later attempt resumed: those are superseded."""
    current = Q(pk__in=())
    for attempt, end in reaches_of([job.pk]).items():
        current |= Q(attempt=attempt) if end is None else Q(attempt=attempt, step__lte=end)
    return Metric.objects.filter(current)


def _spans(points: QuerySet[Metric]) -> Iterable[Any]:
    """By curve: its name, the number of its points, its first and last step."""
    return points.order_by().values("name").annotate(count=Count("pk"), first=Min("step"), last=Max("step"))


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
    """The number of the stretch that contains a step; the first and the last step each form one."""
    step = Cast("step", BigIntegerField())
    width = span["last"] - span["first"] + 1
    return [
        When(name=name, step=span["first"], then=Value(-1)),
        When(name=name, step=span["last"], then=Value(num_stretches)),
        When(name=name, then=(step - Value(span["first"])) * Value(num_stretches) / Value(width)),
    ]
