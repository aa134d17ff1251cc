"""`/metrics` for Prometheus: what this process counted, and what the database knows at this moment.

Several API processes: Prometheus scrapes each at an address of its own, or, where they share one, the variable
PROMETHEUS_MULTIPROC_DIR names a folder through which any of them tells the counts of all.
"""

import hmac
import os
from collections.abc import Iterator, Mapping

import structlog
from django.db import DatabaseError, connection
from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.accounts.authentication import bearer
from api.environment import environment
from api.errors import HINTS, Problem, respond
from api.jobs.gauges import (
    Waiting,
    attempts_by_outcome,
    attempts_live,
    jobs_by_state,
    queue_by_pool,
    removed_total,
    unreferenced_total,
    workers_by_state,
)

log = structlog.get_logger(__name__)

MAX_POOLS = 200
"""A pool is a word in a request: so many of them are told, the fullest first."""


class DatabaseCollector(Collector):
    """The same from every process of the API. At most QUERIES of them for each scrape, all aggregates."""

    QUERIES = 14

    def collect(self) -> Iterator[Metric]:
        """What this process counted is told also while the database does not answer."""
        try:
            told = list(self._ask())
        except DatabaseError as error:
            log.warning("metrics without the database", error=str(error))
            told = []
        yield GaugeMetricFamily("anneal_database_up", "Whether the database answered this scrape.", value=bool(told))
        yield from told

    def _ask(self) -> Iterator[Metric]:
        yield _by("anneal_jobs", "Jobs by state.", "state", jobs_by_state())
        yield _by("anneal_attempts", "Ended attempts by outcome.", "outcome", attempts_by_outcome())
        yield GaugeMetricFamily("anneal_attempts_live", "Attempts that hold a lease.", value=attempts_live())
        pools = _fullest(queue_by_pool())
        depth, oldest = {p: w.due for p, w in pools.items()}, {p: w.oldest_seconds for p, w in pools.items()}
        yield _by("anneal_queue_depth", "Queued jobs that may start now, by pool.", "pool", depth)
        yield _by("anneal_queue_oldest_seconds", "Wait of the first one in the queue, by pool.", "pool", oldest)
        yield _by("anneal_workers", "Workers that take jobs, and those that do not.", "state", workers_by_state())

        objects, size_bytes = unreferenced_total()
        yield GaugeMetricFamily("anneal_storage_unreferenced_objects", "Objects that no row names.", value=objects)
        yield GaugeMetricFamily("anneal_storage_unreferenced_bytes", "Their size.", value=size_bytes)
        removed = CounterMetricFamily("anneal_storage_removed_objects", "Objects removed that no row named.")
        removed.add_metric([], removed_total())
        yield removed

    def describe(self) -> Iterator[Metric]:
        """Nothing at registration: the database may not be there yet."""
        return iter(())


class PoolCollector(Collector):
    """PostgreSQL's connections of this process; SQLite has no pool, and no samples."""

    def collect(self) -> Iterator[Metric]:
        pool = getattr(connection, "pool", None)
        stats = pool.get_stats() if pool else {}
        told = {"open": "pool_size", "idle": "pool_available", "waiting": "requests_waiting"}
        values = {state: stats.get(name, 0) for state, name in told.items()} if stats else {}
        help = "Connections of this process's pool, and requests that wait for one."
        yield _by("anneal_database_pool", help, "state", values)

    def describe(self) -> Iterator[Metric]:
        return iter(())


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Open unless ANNEAL_METRICS_TOKEN is set."""
    wanted = environment().metrics_token
    if wanted and not hmac.compare_digest((bearer(request) or "").encode(), wanted.encode()):
        said = "Metrics need the token of ANNEAL_METRICS_TOKEN."
        return respond(Problem("not_authenticated", said, status=401, hint=HINTS[401]))
    return HttpResponse(generate_latest(registry()), content_type=CONTENT_TYPE_LATEST)


def registry() -> CollectorRegistry:
    """Of this process, or of all that share the folder; each with what the database knows."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # registers itself
    for collector in OURS:
        shared.register(collector)
    return shared


def _fullest(pools: dict[str, Waiting]) -> dict[str, Waiting]:
    return dict(sorted(pools.items(), key=lambda item: -item[1].due)[:MAX_POOLS])


def _by(name: str, help: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


OURS = (DatabaseCollector(), PoolCollector())
for ours in OURS:
    REGISTRY.register(ours)
