"""A database URL as Django's DATABASES entry."""

from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",  # DEFERRED upgrades fail at once with "locked", whatever the timeout
    "timeout": 30,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
}

POSTGRESQL_OPTIONS = "-c idle_in_transaction_session_timeout=60s"
"""An API that hangs or is suspended within a transaction keeps its locks: for a minute, then the others go on."""
POOL_OPTIONS = {  # under ASGI each request has a thread of its own, so that nothing but a pool keeps connections
    "min_size": 1,
    "max_size": 20,
    "timeout": 5,
    "reconnect_timeout": 5,  # then the next request tries again; without it a pool sleeps on after an outage
}


def database_entry(url: str) -> dict[str, Any]:
    """`sqlite:////absolute/file` (three slashes: relative) or `postgresql://user:password@host:port/name?host=/socket`."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": unquote(parts.path[1:]), "OPTIONS": SQLITE_OPTIONS}
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path[1:]),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", parts.hostname or ""),
        "PORT": str(parts.port or ""),
        "OPTIONS": {**query, "options": f"{POSTGRESQL_OPTIONS} {query.get('options', '')}", "pool": POOL_OPTIONS},
        "CONN_HEALTH_CHECKS": True,
    }
