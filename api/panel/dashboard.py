"""The panel's first page: running and waiting jobs, workers and infrastructure. A fixed number of queries."""

from typing import Any

from django.db import DatabaseError, connection
from django.db.models import Count, Q
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from api.environment import environment
from api.jobs.models import Worker
from api.jobs.queue import BROKER_ERRORS, broker_answers
from api.monitoring import attempts_live, jobs_by_state, queue_by_pool, storage_capabilities
from api.panel.readonly import STATE_COLOURS, label, record_link, worker_label

MAX_WORKERS = 50
Table = dict[str, Any]


def dashboard(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:  # noqa: ARG001 unfold's hook
    states = jobs_by_state()
    jobs = reverse("admin:jobs_job_changelist")
    context["states"] = [
        {"name": state, "count": states[state], "url": f"{jobs}?state__exact={state}"} for state in STATE_COLOURS
    ]
    context["queue"] = _queue()
    context["workers"] = _workers()
    context["infrastructure"] = _infrastructure()
    return context


def _queue() -> Table:
    """Pools with jobs that wait, or with workers."""
    rows = [[pool, wait.due, _ago(wait.oldest_seconds)] for pool, wait in sorted(queue_by_pool().items())]
    return {"headers": ["Pool", "Jobs that may start", "The first one waits"], "rows": rows}


def _workers() -> Table:
    workers = Worker.objects.annotate(live=Count("attempts", filter=Q(attempts__ended_at=None)))
    rows = [
        [
            record_link(worker),
            worker_label(worker),
            ", ".join(worker.pools),
            f"{worker.live} of {worker.slots}",
            len(worker.accelerators),
            f"{timesince(worker.last_seen)} ago",
        ]
        for worker in workers.order_by("gone", "-last_seen")[:MAX_WORKERS]
    ]
    return {"headers": ["Worker", "State", "Pools", "Slots in use", "Accelerators", "Last seen"], "rows": rows}


def _infrastructure() -> Table:
    rows = [["Database", _database()], ["Broker", _broker()], *_storage()]
    return {"headers": ["What", "State"], "rows": [*rows, ["Live attempts", attempts_live()]]}


def _database() -> SafeString:
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT sqlite_version()" if connection.vendor == "sqlite" else "SHOW server_version")
            version = cursor.fetchone()[0]
    except DatabaseError as error:
        return _state("danger", "fails", str(error))
    return _state("success", "ok", f"{connection.vendor} {version}")


def _broker() -> SafeString:
    if not environment().broker_url:
        return _state("info", "none", "workers poll")
    try:
        broker_answers()
    except BROKER_ERRORS as error:
        return _state("warning", "silent", f"workers poll: {error}")
    return _state("success", "ok", "wake-up calls are sent")


def _storage() -> list[list[Any]]:
    """Its address and its capabilities."""
    address = environment().storage_url.rpartition("@")[2]
    try:
        capabilities = storage_capabilities()
    except OSError as error:
        return [["Storage", _state("danger", "fails", f"{address}: {error}")]]
    can = [name.replace("_", " ") for name, value in capabilities.items() if value is True]
    cannot = [name.replace("_", " ") for name, value in capabilities.items() if value is False]
    rows = [["Storage", _state("success", "ok", address)], ["Storage can", ", ".join(can)]]
    return rows if not cannot else [*rows, ["Storage cannot", ", ".join(cannot)]]


def _state(colour: str, word: str, more: str) -> SafeString:
    return format_html("{} {}", label(word, colour), more)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
