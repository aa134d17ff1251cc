"""The panel's first page: what runs, what waits, and what the platform stands on. A fixed number of queries."""

from typing import Any

from django.db import DatabaseError, connection
from django.db.models import Count, Q
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.timesince import timesince

from api import health
from api.environment import environment
from api.jobs.clock import now
from api.jobs.gauges import attempts_live, jobs_by_state, queue_by_pool
from api.jobs.models import Worker
from api.jobs.queue import BROKER_ERRORS, broker_answers
from api.jobs.selectors import LIVE_HEARTBEATS
from api.panel.columns import STATE_COLOURS, record_link

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
    context["stands_on"] = _stands_on()
    return context


def label(text: str, colour: str) -> SafeString:
    return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": colour}))


def _queue() -> Table:
    """Pools with jobs that wait, or with workers."""
    rows = [[pool, wait.due, _ago(wait.oldest_seconds)] for pool, wait in sorted(queue_by_pool().items())]
    return {"headers": ["Pool", "Jobs that may start", "The first one waits"], "rows": rows}


def _workers() -> Table:
    at = now()
    found = Worker.objects.annotate(live=Count("attempts", filter=Q(attempts__ended_at=None)))
    rows = [
        [
            record_link(worker),
            label(*_worker_state(worker, (at - worker.last_seen).total_seconds())),
            ", ".join(worker.pools),
            f"{worker.live} of {worker.slots}",
            len(worker.accelerators),
            f"{timesince(worker.last_seen, at)} ago",
        ]
        for worker in found.order_by("gone", "-last_seen")[:MAX_WORKERS]
    ]
    return {"headers": ["Worker", "State", "Pools", "Slots in use", "Accelerators", "Last seen"], "rows": rows}


def _worker_state(worker: Worker, silent_seconds: float) -> tuple[str, str]:
    if worker.gone:
        return "gone", "default"
    if silent_seconds > LIVE_HEARTBEATS * environment().heartbeat_seconds:
        return "silent", "danger"
    return ("draining", "warning") if worker.draining else ("live", "success")


def _stands_on() -> Table:
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
    """The capabilities that were probed at start, where the storage has a probe."""
    probe = getattr(health, "storage_capabilities", None)
    address = environment().storage_url.rpartition("@")[2]
    if probe is None:
        return [["Storage", address]]
    found = probe()
    told = found if isinstance(found, dict) else getattr(found, "model_dump", lambda: {"capabilities": found})()
    return [["Storage", address], *([f"Storage: {name.replace('_', ' ')}", str(value)] for name, value in told.items())]


def _state(colour: str, word: str, more: str) -> SafeString:
    return format_html("{} {}", label(word, colour), more)


def _ago(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
