"""Django's SQLite backend with a queue of writers in each process.

SQLite allows one writing connection at a time; the others poll with growing pauses, so that under load the last may go
first and an unlucky one waits for tens of seconds. Here a transaction takes a ticket before its BEGIN IMMEDIATE.
Writers of other processes (the dispatcher) still compete for SQLite's lock, with its `timeout`.

SQLite also holds its lock while the disk syncs a commit. Here it does not sync (synchronous=NORMAL): the log is synced
after the lock is released and before the commit returns, once for all waiting writers.
"""

import os
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django.db import OperationalError
from django.db.backends.sqlite3 import base


class Line:
    """A lock that is granted in order of arrival. Any thread may release it."""

    def __init__(self, file: str) -> None:
        self._log = f"{file}-wal"
        self._syncs = threading.Condition()
        self._syncs_begun = self._syncs_done = 0
        self._guard = threading.Lock()
        self._busy = False
        self._waiting: deque[threading.Event] = deque()
        self._anchor: Any = None

    @property
    def length(self) -> int:
        return len(self._waiting)

    def stay_open(self, connect: Callable[[], Any]) -> None:
        """Opens one permanent connection of the process at the first call."""
        with self._guard:
            if self._anchor is None:
                self._anchor = connect()

    def enter(self, timeout_seconds: float) -> bool:
        """Returns False on timeout."""
        with self._guard:
            if not self._busy:
                self._busy = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_seconds):
            return True
        with self._guard:
            if turn.is_set():  # granted during the timeout
                return True
            self._waiting.remove(turn)
        return False

    def leave(self) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._busy = False

    def sync(self) -> None:
        """Returns when everything that was committed before the call is durable. Raises OSError.

        Callers during a sync share the next one, so that a slow disk limits the latency but not the rate.
        """
        with self._syncs:
            required = self._syncs_begun + 1
            while self._syncs_begun > self._syncs_done and self._syncs_done < required:
                self._syncs.wait()
            if self._syncs_done >= required:
                return
            self._syncs_begun += 1
        try:
            _file_sync(self._log)
        except BaseException:
            with self._syncs:
                self._syncs_begun = self._syncs_done  # waiting callers retry
                self._syncs.notify_all()
            raise
        with self._syncs:
            self._syncs_done = self._syncs_begun
            self._syncs.notify_all()


def _file_sync(path: str) -> None:
    """A missing log was moved into the database, which synced both."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)


_LINES: dict[str, Line] = {}
_GUARD = threading.Lock()


def line_of(file: str) -> Line:
    """The shared instance of a database file."""
    with _GUARD:
        return _LINES.setdefault(file, Line(file))


WRITES = ("INSERT", "UPDATE", "DELETE", "REPLACE")
Execute = Callable[[str, Any, bool, dict[str, Any]], Any]


class DatabaseWrapper(base.DatabaseWrapper):
    """A transaction holds the ticket until its commit, its rollback, or the connection's end."""

    _ticket: Line | None = None
    _file: tuple[int, int] | None = None
    """The open file, by device and inode."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.execute_wrappers.append(self._write_in_line)

    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        connection = super().get_new_connection(conn_params)
        self._file = _file_of(conn_params["database"])
        line_of(str(self.settings_dict["NAME"])).stay_open(lambda: _anchor(conn_params))
        return connection

    def is_usable(self) -> bool:
        """Called after errors only: reconnecting costs milliseconds."""
        return False

    def close_if_unusable_or_obsolete(self) -> None:
        """Called between requests. Closes the connection if the file was replaced by another."""
        idle = self.connection is not None and not self.in_atomic_block
        if idle and self._file != _file_of(str(self.settings_dict["NAME"])):
            self.close()
        super().close_if_unusable_or_obsolete()

    def ticket_take(self) -> None:
        """Idempotent. Raises OperationalError after `timeout` seconds."""
        if self._ticket is not None:
            return
        line = line_of(str(self.settings_dict["NAME"]))
        seconds = self.settings_dict["OPTIONS"].get("timeout", 30)
        if not line.enter(seconds):
            raise OperationalError(f"database is locked: {line.length} writers stand in line for over {seconds} s")
        self._ticket = line

    def ticket_return(self) -> None:
        line, self._ticket = self._ticket, None
        if line is not None:
            line.leave()

    def _ticket_return_and_sync(self) -> None:
        """Lets the next writer go on during the sync; returns when the commit is durable."""
        line = self._ticket
        self.ticket_return()
        if line is not None:
            line.sync()

    def _write_in_line(self, execute: Execute, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        """Queues single statements that write outside of a transaction."""
        if self._ticket is not None or not sql.lstrip()[:7].upper().startswith(WRITES):
            return execute(sql, params, many, context)
        self.ticket_take()
        try:
            result = execute(sql, params, many, context)
        except BaseException:
            self.ticket_return()
            raise
        self._ticket_return_and_sync()
        return result

    def _start_transaction_under_autocommit(self) -> None:
        self.ticket_take()
        try:
            super()._start_transaction_under_autocommit()  # type: ignore[misc]  # missing in the stubs
        except BaseException:
            self.ticket_return()
            raise

    def _commit(self) -> None:
        super()._commit()  # type: ignore[misc]  # a rollback follows a failure
        self._ticket_return_and_sync()

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]
        finally:
            self.ticket_return()

    def _close(self) -> None:
        try:
            super()._close()  # type: ignore[misc]
        finally:
            self.ticket_return()


def _file_of(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _anchor(conn_params: dict[str, Any]) -> sqlite3.Connection:
    """A connection that stays open. Otherwise the last connection of a file to close would make SQLite move the log
    into the database and delete it, which costs three times a commit."""
    connection = sqlite3.connect(conn_params["database"], check_same_thread=False, isolation_level=None)
    connection.execute("SELECT count(*) FROM sqlite_master").fetchall()  # opens the log
    return connection
