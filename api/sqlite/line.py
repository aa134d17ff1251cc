"""What the connections of one process to one SQLite file share: the line of its writers, and their syncs."""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any


class Line:
    """A lock whose waiters get it in the order of their coming. Any thread may leave for the one that entered."""

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
        """Keeps one connection of the process open, the first time."""
        with self._guard:
            if self._anchor is None:
                self._anchor = connect()

    def enter(self, timeout_seconds: float) -> bool:
        """False where the turn did not come in time."""
        with self._guard:
            if not self._busy:
                self._busy = True
                return True
            turn = threading.Event()
            self._waiting.append(turn)
        if turn.wait(timeout_seconds):
            return True
        with self._guard:
            if turn.is_set():  # it came while we gave up
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
        """Returns when all that was committed before the call lies on the disk. Raises OSError.

        Whoever comes during a sync shares the next one, so that a slow disk bounds the delay and not the rate.
        """
        with self._syncs:
            enough = self._syncs_begun + 1
            while self._syncs_begun > self._syncs_done and self._syncs_done < enough:
                self._syncs.wait()
            if self._syncs_done >= enough:
                return
            self._syncs_begun += 1
        try:
            _file_sync(self._log)
        except BaseException:
            with self._syncs:
                self._syncs_begun = self._syncs_done  # the others try by themselves
                self._syncs.notify_all()
            raise
        with self._syncs:
            self._syncs_done = self._syncs_begun
            self._syncs.notify_all()


def _file_sync(path: str) -> None:
    """A log that is gone was moved into the database, which syncs both."""
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
    """The one of a database file."""
    with _GUARD:
        return _LINES.setdefault(file, Line(file))
