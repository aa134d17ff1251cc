"""A database URL as Django's DATABASES entry."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from django.utils.module_loading import import_string

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",  # DEFERRED upgrades fail at once with "locked", whatever the timeout
    "timeout": 30,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",  # api.sqlite syncs each commit itself
}

POSTGRESQL_OPTIONS = "-c idle_in_transaction_session_timeout=60s"
"""Ends the transaction, and releases the locks, of an API that hangs or is suspended."""
ANSWER_GRACE_SECONDS = 2
"""From the statement timeout of the server until it is considered silent."""


@dataclass(frozen=True)
class Limits:
    """The variables `database_*` of `api.environment`."""

    connect_seconds: int
    check_seconds: float
    silent_seconds: int
    statement_seconds: float
    """0: unlimited."""
    pool_size: int


def database_entry(url: str, limits: Limits) -> dict[str, Any]:
    """`sqlite:////absolute/file` (three slashes: relative) or `postgresql://user:password@host:port/name?host=/socket`.

    The limits apply to PostgreSQL; options of libpq in the URL override them.
    """
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {
            "ENGINE": "api.sqlite",
            "NAME": unquote(parts.path[1:]),
            "OPTIONS": SQLITE_OPTIONS,
            "CONN_MAX_AGE": None,  # lives as long as the thread (api.server.handler)
        }
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": {
            **_tcp_options(limits),
            **query,
            "options": f"{_server_options(limits)} {query.get('options', '')}",
            "pool": _pool_options(limits),
        },
        "CONN_HEALTH_CHECKS": True,
    }


def _tcp_options(limits: Limits) -> dict[str, int]:
    """Closes a connection whose peer acknowledges nothing for `silent_seconds`, also an idle one."""
    return {
        "connect_timeout": limits.connect_seconds,
        "tcp_user_timeout": 1000 * limits.silent_seconds,  # milliseconds
        "keepalives": 1,
        "keepalives_idle": max(1, limits.silent_seconds // 2),
        "keepalives_interval": max(1, limits.silent_seconds // 4),
        "keepalives_count": 2,
    }


def _server_options(limits: Limits) -> str:
    return f"{POSTGRESQL_OPTIONS} -c statement_timeout={round(1000 * limits.statement_seconds)}ms"


def _pool_options(limits: Limits) -> dict[str, Any]:
    """The pool checks a connection before each request, so that none hangs after a failover."""
    bounded = import_string("api.postgresql.bounded")  # psycopg is optional
    answer = limits.statement_seconds + ANSWER_GRACE_SECONDS if limits.statement_seconds else None
    return {
        "connection_class": bounded(check_seconds=limits.check_seconds, answer_seconds=answer),
        "min_size": 1,
        "max_size": limits.pool_size,
        "timeout": limits.connect_seconds,
        "reconnect_timeout": limits.connect_seconds,  # then the next request tries again
    }
