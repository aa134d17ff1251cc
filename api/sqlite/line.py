"""Shared by the connections of one process to one SQLite file: the queue of writers, and their syncs."""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


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
