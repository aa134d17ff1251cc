"""`/healthz`: the process responds. `/readyz`: its database and storage do, too."""

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET

from api.environment import environment
from api.jobs.selectors import quarantined, workers_without_wall
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
