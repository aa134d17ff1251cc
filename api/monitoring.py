"""What operators read: `/healthz`, `/readyz`, and `/metrics` for Prometheus.

`/healthz`: the process responds. `/readyz`: its database and storage do, too. `/metrics`: counters of this process, and
gauges from the database. With several API processes Prometheus scrapes each at its own address; if they share one, the
processes share their counts through the folder PROMETHEUS_MULTIPROC_DIR.
"""

import hmac
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.db.models import Count, Min, Q, Sum
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.http import require_GET
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from api.accounts.authentication import bearer
from api.audit.clock import now
from api.environment import environment
from api.errors import HINTS, Problem, respond
from api.jobs.models import Attempt, Job, Reconciliation, Unreferenced, Worker
from api.jobs.selectors import quarantined, workers_live, workers_without_wall
from api.jobs.states import Outcome, State
from api.storage import storage


@require_GET
def healthz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001 Django's signature
    return JsonResponse({"status": "ok", "pid": os.getpid()})


@require_GET
def readyz(request: HttpRequest) -> JsonResponse:  # noqa: ARG001
    """200 if jobs can be accepted. The broker is reported but not required, since workers poll."""
    checks: dict[str, Callable[[], str]] = {"database": _database, "storage": _storage}
    states = {name: check() for name, check in checks.items()}
    ready = all(state == "ok" for state in states.values())
    capabilities = storage_capabilities() if states["storage"] == "ok" else None
    report = {
        "ready": ready,
        **states,
        "storage_capabilities": capabilities,
        "broker": _broker(),
        "quarantined": _quarantined(states),
        "trainers": _trainers(states),
    }
    return JsonResponse(report, status=200 if ready else 503)


def storage_capabilities() -> dict[str, Any]:
    """Kind and capabilities of the storage. Raises OSError if it does not answer."""
    kind = urlsplit(environment().storage_url).scheme
    return {"kind": {"file": "folder"}.get(kind, kind), **asdict(storage().capabilities())}


def _database() -> str:
    try:
        executor = MigrationExecutor(connection)
    except DatabaseError as error:
        return f"failed: {error}"
    pending = executor.migration_plan(executor.loader.graph.leaf_nodes())
    return f"failed: {len(pending)} migrations are waiting; run `python -m api migrate`" if pending else "ok"


def _storage() -> str:
    """Writes a small object, always the same one."""
    try:
        storage().put_if_absent("health/ready", b"ok")
    except OSError as error:
        return f"failed: {error}"
    return "ok"


def _quarantined(states: dict[str, str]) -> list[str]:
    """Workers in quarantine with their reasons; they do not affect readiness."""
    return quarantined() if states["database"] == "ok" else []


def _trainers(states: dict[str, str]) -> str:
    """Whether trainers cannot read the worker's files on any live worker; only a warning."""
    if states["database"] != "ok":
        return "unknown"
    live, open_to_trainers = workers_without_wall()
    if not open_to_trainers:
        return "ok"
    return f"trainers can read the worker's files on {open_to_trainers} of {live} live workers; see docs/worker.md"


def _broker() -> str:
    url = environment().broker_url
    return f"set: {urlsplit(url).hostname}" if url else "none: workers poll"


@dataclass(frozen=True)
class Waiting:
    """The queue of one pool."""

    due: int
    oldest_seconds: float
    """Since the job that waits longest was queued."""


def queue_by_pool() -> dict[str, Waiting]:
    """Pools with queued jobs that may start now, and pools with live workers, even if their queue is empty."""
    at = now()
    due = Job.objects.filter(Q(not_before=None) | Q(not_before__lte=at), state=State.QUEUED)
    counts = due.order_by().values_list("pool").annotate(Count("pk"), Min("queued_at"))
    waiting = {pool: Waiting(count, max(0.0, (at - oldest).total_seconds())) for pool, count, oldest in counts if count}
    served = {pool: Waiting(0, 0.0) for worker in workers_live() for pool in worker.pools}
    return served | waiting


def jobs_by_state() -> dict[str, int]:
    counts = dict(Job.objects.order_by().values_list("state").annotate(Count("pk")))
    return {state: counts.get(state, 0) for state in State.values}


def attempts_by_outcome() -> dict[str, int]:
    ended = Attempt.objects.filter(ended_at__isnull=False).order_by()
    counts = dict(ended.values_list("outcome").annotate(Count("pk")))
    return {outcome: counts.get(outcome, 0) for outcome in Outcome.values}


def attempts_live() -> int:
    return Attempt.objects.filter(ended_at=None).count()


def workers_by_state() -> dict[str, int]:
    """`live` takes jobs; `quarantined` failed too many; `away` is silent, draining or gone."""
    num_live, num_quarantined = len(workers_live()), len(quarantined())
    num_away = Worker.objects.count() - num_live - num_quarantined
    return {"live": num_live, "quarantined": num_quarantined, "away": num_away}


def unreferenced_total() -> tuple[int, int]:
    """The number of objects in the storage that no row names, and their bytes, as of the last passes."""
    total = Unreferenced.objects.aggregate(count=Count("pk"), size=Sum("size_bytes"))
    return total["count"], total["size"] or 0


def removed_total() -> int:
    return Reconciliation.objects.values_list("removed_objects", flat=True).first() or 0


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
