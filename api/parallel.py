"""Concurrent calls to the storage for many files, since each takes a latency."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

MAX_THREADS = 16
"""Of one request."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], max_threads: int = MAX_THREADS
) -> list[Result]:
    """Returns the results in the order of the items; raises the first error in that order.

    `function` must not use the database (each thread would open a connection). Call outside of transactions.
    """
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(max_threads, len(items)), thread_name_prefix="storage") as threads:
        return list(threads.map(function, items))
