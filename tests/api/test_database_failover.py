"""A real PostgreSQL behind a proxy that goes silent: the API gives up in seconds and comes back by itself."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from django.db import OperationalError
from django.db.utils import ConnectionHandler

from api.databases import Limits, database_entry
from tests.faults.databases import postgresql_database
from tests.faults.proxy import Proxy

LIMITS = Limits(connect_seconds=3, check_seconds=0.5, silent_seconds=4, statement_seconds=1, pool_size=20)
ALIAS = "proxied"
BACK_WITHIN_SECONDS = 15
POOLED = 17
"""As many dead connections as stopped the API for over two minutes."""

pytestmark = [pytest.mark.slow, pytest.mark.django_db]  # without the mark pytest-django blocks every database


@dataclass
class Database:
    proxy: Proxy
    connections: ConnectionHandler

    def ask(self, statement: str = "SELECT 1") -> None:
        """As a request does: takes a connection out of the pool, asks, gives it back."""
        connection: Any = self.connections[ALIAS]
        try:
            with connection.cursor() as cursor:
                cursor.execute(statement)
        finally:
            connection.close()

    def ask_at_once(self, count: int, statement: str) -> list[Exception]:
        """In so many threads; what failed. Raises AssertionError where a thread hangs."""
        errors: list[Exception] = []

        def one() -> None:
            try:
                self.ask(statement)
            except OperationalError as error:
                errors.append(error)

        threads = [threading.Thread(target=one, daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=BACK_WITHIN_SECONDS)
        assert not any(thread.is_alive() for thread in threads), "a request hangs in a dead connection"
        return errors

    def is_back(self) -> bool:
        deadline = time.monotonic() + BACK_WITHIN_SECONDS
        while time.monotonic() < deadline:
            try:
                self.ask()
            except OperationalError:
                continue
            return True
        return False


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    result = postgresql_database(Path(tmp_path_factory.mktemp("unused")))
    yield result.url
    result.close()


@pytest.fixture
def database(server: str) -> Iterator[Database]:
    """With POOLED idle connections in its pool."""
    with closing(SocketProxy(server)) as proxy:
        url = f"postgresql://postgres:@127.0.0.1:{proxy.port}/postgres"
        connections = ConnectionHandler({"default": {}, ALIAS: database_entry(url, LIMITS)})
        result = Database(proxy, connections)
        assert result.ask_at_once(POOLED, "SELECT pg_sleep(0.5)") == []
        yield result
        wrapper: Any = connections[ALIAS]
        wrapper.close_pool()


class SocketProxy(Proxy):
    """For a server that listens on a Unix socket only."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.path = f"{unquote(parse_qs(parts.query)['host'][0])}/.s.PGSQL.{parts.port or 5432}"
        super().__init__(target=0)

    def _connect(self) -> socket.socket:
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.path)
        return server


def test_after_a_failover_dead_pooled_connections_hang_no_request(database: Database) -> None:
    database.proxy.strand()
    database.ask_at_once(POOLED, "SELECT 1")
    assert database.is_back()


def test_a_silent_database_is_back_within_15_s_of_its_return(database: Database) -> None:
    database.proxy.set("silent")
    assert len(database.ask_at_once(POOLED, "SELECT 1")) == POOLED
    database.proxy.set("pass")
    assert database.is_back()


def test_a_statement_that_waits_while_the_database_goes_silent_is_given_up(database: Database) -> None:
    errors: list[list[Exception]] = []
    asking = threading.Thread(target=lambda: errors.append(database.ask_at_once(1, "SELECT pg_sleep(0.9)")))
    asking.start()
    database.proxy.strand()
    asking.join()
    assert database.is_back()


def test_a_long_statement_of_a_request_is_ended_by_the_server(database: Database) -> None:
    with pytest.raises(OperationalError, match="statement timeout"):
        database.ask("SELECT pg_sleep(30)")
