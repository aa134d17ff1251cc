"""`/metrics` for Prometheus: counters of this process, and gauges from the database.

With several API processes Prometheus scrapes each at its own address; if they share one, the processes share their
counts through the folder PROMETHEUS_MULTIPROC_DIR.
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
"""Pools are chosen by requests, so only the fullest are exported."""


class DatabaseCollector(Collector):
    """Equal in all processes of the API. A scrape takes at most QUERIES queries, all aggregates."""

    QUERIES = 14

    def collect(self) -> Iterator[Metric]:
        """Yields only `anneal_database_up` if the database does not answer."""
        try:
            families = list(self._query())
        except DatabaseError as error:
            log.warning("metrics without the database", error=str(error))
            families = []
        yield GaugeMetricFamily(
            "anneal_database_up", "Whether the database answered this scrape.", value=bool(families)
        )
        yield from families

    def _query(self) -> Iterator[Metric]:
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
        """No query at registration, when the database may not exist yet."""
        return iter(())


class PoolCollector(Collector):
    """Connections of this process to PostgreSQL; SQLite has no pool and no samples."""

    def collect(self) -> Iterator[Metric]:
        pool = getattr(connection, "pool", None)
        stats = pool.get_stats() if pool else {}
        names = {"open": "pool_size", "idle": "pool_available", "waiting": "requests_waiting"}
        values = {state: stats.get(name, 0) for state, name in names.items()} if stats else {}
        help = "Connections of this process's pool, and requests that wait for one."
        yield _by("anneal_database_pool", help, "state", values)

    def describe(self) -> Iterator[Metric]:
        return iter(())


@require_GET
def metrics(request: HttpRequest) -> HttpResponse:
    """Open unless ANNEAL_METRICS_TOKEN is set."""
    token = environment().metrics_token
    if token and not hmac.compare_digest((bearer(request) or "").encode(), token.encode()):
        message = "Metrics need the token of ANNEAL_METRICS_TOKEN."
        return respond(Problem("not_authenticated", message, status=401, hint=HINTS[401]))
    return HttpResponse(generate_latest(registry()), content_type=CONTENT_TYPE_LATEST)


def registry() -> CollectorRegistry:
    """Of this process, or of all processes that share the folder; with the metrics of the database."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    shared = CollectorRegistry()
    MultiProcessCollector(shared)  # type: ignore[no-untyped-call]  # registers itself
    for collector in COLLECTORS:
        shared.register(collector)
    return shared


def _fullest(pools: dict[str, Waiting]) -> dict[str, Waiting]:
    return dict(sorted(pools.items(), key=lambda item: -item[1].due)[:MAX_POOLS])


def _by(name: str, help: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


COLLECTORS = (DatabaseCollector(), PoolCollector())
for _collector in COLLECTORS:
    REGISTRY.register(_collector)
