"""`/metrics` for Prometheus: what this process counted, and what the database knows at this moment."""

from collections.abc import Iterator

from django.db.models import Count
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from api.jobs.models import Attempt, Job, State, Worker
from api.jobs.selectors import due_by_pool, workers_live


class DatabaseCollector(Collector):
    """Five short queries for each scrape."""

    def collect(self) -> Iterator[Metric]:
        yield _by("anneal_jobs", "Jobs by state.", "state", _jobs_by_state())
        yield _by("anneal_queue_depth", "Queued jobs that may start now, by pool.", "pool", due_by_pool())
        yield _by("anneal_attempts", "Ended attempts by outcome.", "outcome", _attempts_by_outcome())
        yield GaugeMetricFamily("anneal_workers_live", "Workers that take jobs.", value=len(workers_live()))
        yield GaugeMetricFamily("anneal_workers", "Workers that ever said hello.", value=Worker.objects.count())

    def describe(self) -> Iterator[Metric]:
        """Nothing at registration: the database may not be there yet."""
        return iter(())


def _jobs_by_state() -> dict[str, int]:
    counted = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    return {state: counted.get(state, 0) for state in State.values}


def _attempts_by_outcome() -> dict[str, int]:
    ended = Attempt.objects.exclude(ended_at=None).order_by()
    return dict(ended.values_list("outcome").annotate(Count("pk")))


def _by(name: str, help: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


REGISTRY.register(DatabaseCollector())


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 Django's signature
    return HttpResponse(generate_latest(REGISTRY), content_type=CONTENT_TYPE_LATEST)
