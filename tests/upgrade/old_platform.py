"""Loads the dumps of commit 61dba2f into fresh databases and brings them to today's models."""

import json
import lzma
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.config import Login
from cli.http import Client
from cli.platform.children import Child, answers_ready, child_start, child_stop, wait_until
from cli.platform.home import Home, home_open, port_new
from cli.platform.services import api_child, api_env, api_url
from cli.platform.start import run_once
from tests.faults.databases import DATABASES, Database
from tests.patience import PATIENCE_SECONDS

DATA = Path(__file__).parent / "data"
KEYS: dict[str, dict[str, Any]] = json.loads((DATA / "keys.json").read_text())
"""By database: secrets of the platform, a token of its admin, ids of jobs by what became of them."""
Rows = list[dict[str, Any]]
Tables = dict[str, Rows]


@dataclass
class OldPlatform:
    """A platform folder with the old rows and files; `env` is that of its API."""

    name: str
    home: Home
    database: Database
    port: int
    env: dict[str, str]

    @property
    def jobs(self) -> dict[str, str]:
        ids: dict[str, str] = KEYS[self.name]["jobs"]
        return ids

    @property
    def url(self) -> str:
        return api_url(self.port)

    @property
    def client(self) -> Client:
        return Client(Login(self.url, KEYS[self.name]["token"]))

    def migrate(self) -> tuple[Tables, Tables]:
        """Every row of every table before and after."""
        before = self.tables()
        run_once(self.home, self.env, "migrate", "--no-input")
        return before, self.tables()

    def tables(self) -> Tables:
        with closing(connect(self.name, self.database.url)) as connection:
            cursor = connection.cursor()
            cursor.execute(TABLES[self.name])
            return {table: rows_of(cursor, table) for (table,) in cursor.fetchall()}

    @contextmanager
    def running(self, *children: Child) -> Iterator[None]:
        """The API, and once it answers, `children`."""
        processes = [api_child(self.home, self.env, self.port), *children]
        try:
            child_start(processes[0])
            wait_until(lambda: answers_ready(self.url), processes[0], PATIENCE_SECONDS)
            for child in children:
                child_start(child)
            yield
        finally:
            for child in reversed(processes):
                child_stop(child)


TABLES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname = 'public'",
}


@contextmanager
def old_platform(root: Path, name: str, **settings: str) -> Iterator[OldPlatform]:
    """The dump in a new database, not yet migrated, and its storage folder, below `root`."""
    home = home_open(root)
    for secret in ("secret_key", "secrets_key", "worker_token"):
        (root / secret).write_text(KEYS[name][secret])
    with tarfile.open(DATA / "storage.tar.xz") as archive:
        members = [member for member in archive if member.name.startswith(f"{name}/")]
        for member in members:
            member.name = member.name.removeprefix(f"{name}/")
        archive.extractall(root / "files", members, filter="data")
    database = DATABASES[name](root)
    try:
        load(name, database.url)
        port = port_new(set())
        places = {"ANNEAL_DATABASE_URL": database.url, "OMP_NUM_THREADS": "1", **settings}
        env = api_env(home, port=port, key=KEYS[name]["secret_key"], broker_url="", places=places)
        yield OldPlatform(name, home, database, port, env)
    finally:
        database.close()


def dump_text(name: str) -> str:
    return lzma.decompress((DATA / f"{name}.sql.xz").read_bytes()).decode()


def load(name: str, url: str) -> None:
    script = dump_text(name)
    with closing(connect(name, url)) as connection:
        if name == "sqlite":
            connection.executescript(script)
        else:
            connection.execute(script)
        connection.commit()


def connect(name: str, url: str) -> Any:
    if name == "sqlite":
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    psycopg = pytest.importorskip("psycopg", reason="PostgreSQL: psycopg is not installed")
    return psycopg.connect(url)


def rows_of(cursor: Any, table: str) -> Rows:
    cursor.execute(f'SELECT * FROM "{table}"')
    columns = [column[0] for column in cursor.description]
    return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]
