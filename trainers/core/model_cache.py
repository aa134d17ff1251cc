"""What stays in memory from one job to the next, where one process runs several."""

from collections.abc import Callable, Hashable
from typing import Any


class ModelCache:
    """One thing at a time, by key. A process that runs one job keeps nothing that anybody asks for again."""

    def __init__(self) -> None:
        self._key: Hashable = None
        self._thing: Any = None

    def holds(self, key: Hashable) -> bool:
        return self._thing is not None and self._key == key

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """The thing of `key`; another one is let go of before `load` makes it. Whoever gets it leaves it as it was."""
        if self._key != key:
            self._key = self._thing = None
            self._thing = load()
            self._key = key
        return self._thing
