"""How many checks run at a time, and for whom: one project cannot hold all slots, nor go ahead of those that wait."""

import threading
from collections.abc import Callable
from typing import Any

ALIVE_SECONDS = 5


class CheckSlots:
    """Slots of one process. A project holds at most one; those that wait are served in the order of their arrival."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()
        self._running: set[Any] = set()
        self._waiting: list[tuple[Any, object]] = []

    def acquire(self, project: Any, *, wait: bool, alive: Callable[[], None] = lambda: None) -> bool:
        """Takes a slot for `project`, calling `alive` while it waits. False where none is free and `wait` is false."""
        ticket = (project, object())
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not self._is_next(ticket):
                    if not wait:
                        return False
                    if not self._changed.wait(ALIVE_SECONDS):
                        alive()
                self._free -= 1
                self._running.add(project)
                return True
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def release(self, project: Any) -> None:
        with self._changed:
            self._free += 1
            self._running.remove(project)
            self._changed.notify_all()

    def _is_next(self, ticket: tuple[Any, object]) -> bool:
        """The first that waits whose project runs nothing."""
        first = next((one for one in self._waiting if one[0] not in self._running), None)
        return self._free > 0 and first is ticket
