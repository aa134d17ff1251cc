"""Calls to the storage for many files at once: one after the other they take a latency each."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

AT_ONCE = 16
"""Threads for one request."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(act: Callable[[Item], Result], items: Sequence[Item], at_once: int = AT_ONCE) -> list[Result]:
    """Results in the order of the items; the first error, in that order, is raised.

    `act` asks no database (its threads would each open a connection); call it outside of transactions.
    """
    if len(items) < 2:
        return [act(item) for item in items]
    with ThreadPoolExecutor(min(at_once, len(items)), thread_name_prefix="storage") as threads:
        return list(threads.map(act, items))
