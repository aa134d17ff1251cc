"""Logs every request, with its latency and status by route for Prometheus, and an id that the client receives."""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog
from django.http import HttpRequest, HttpResponseBase
from django.utils.functional import LazyObject
from prometheus_client import Histogram

log = structlog.get_logger("api.request")

REQUEST_SECONDS = Histogram(
    "anneal_http_request_seconds",
    "From a request to the start of its answer, by method, route and status class.",
    ["method", "route", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
UNKNOWN = "unknown"
"""Label of unmatched routes and unknown methods, so that clients cannot create labels."""
HEADER = "X-Request-ID"
SAFE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
QUIET = ("/healthz", "/readyz", "/metrics")


def observed(get_response: Callable[[HttpRequest], HttpResponseBase]) -> Callable[[HttpRequest], HttpResponseBase]:
    """Outermost Django middleware; exceptions are responses with status 500 here."""

    def observe(request: HttpRequest) -> HttpResponseBase:
        request_id, started = _begin(request), time.perf_counter()
        return _end(request, get_response(request), request_id, time.perf_counter() - started)

    return observe


def _begin(request: HttpRequest) -> str:
    """Binds the client's request id, if it is safe, or a new one to all log lines of the request."""
    client_id = request.headers.get(HEADER, "")
    request_id = client_id if SAFE_ID.fullmatch(client_id) else uuid.uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def _end(request: HttpRequest, response: HttpResponseBase, request_id: str, seconds: float) -> HttpResponseBase:
    method = request.method if request.method in METHODS else UNKNOWN
    status = response.status_code
    REQUEST_SECONDS.labels(method, route_of(request), f"{status // 100}xx").observe(seconds)
    response.headers[HEADER] = request_id
    fields = {
        "request_id": request_id,
        "method": method,
        "path": request.path,
        "status": status,
        "user": _user(request),
    }
    write = log.error if status >= 500 else log.debug if request.path in QUIET else log.info
    write("request", **fields, duration_ms=round(1000 * seconds, 1))
    return response


def route_of(request: HttpRequest) -> str:
    """The pattern, such as `api/v1/jobs/<str:ref>`; paths would create a label for each job."""
    match = request.resolver_match
    return (match.route or "/") if match else UNKNOWN


def _user(request: HttpRequest) -> str | None:
    """The name of the user that a view or middleware has loaded. Makes no query."""
    user: Any = request.__dict__.get("user")
    if isinstance(user, LazyObject):
        user = getattr(request, "_cached_user", None)
    if user is None or not getattr(user, "is_authenticated", False):
        return None
    return str(user.get_username()) if hasattr(user, "get_username") else type(user).__name__
