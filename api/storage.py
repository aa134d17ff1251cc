"""The storage of this installation, opened from the settings, and concurrent calls to it for many files."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from api.environment import environment
from storage import Storage, open_storage
from storage.links import App, link_app
from storage.local import LocalStorage

LINK_PATH = "/storage/"
log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def storage() -> Storage:
    settings = environment()
    base = settings.public_url.rstrip("/") + LINK_PATH
    return open_storage(settings.storage_url, link_base=base, secret=settings.secret_key, s3=settings.s3_options)


def storage_app() -> App | None:
    """The app that serves signed links below LINK_PATH; None if the storage serves them itself."""
    opened = storage()
    return link_app(opened, prefix=LINK_PATH) if isinstance(opened, LocalStorage) else None


def storage_probe() -> None:
    """Probes and logs the capabilities of the storage at start, before the first user needs them.

    Logs a warning if the storage does not answer: `/readyz` reports it, and the next call probes again.
    """
    try:
        log.info("storage: %s", storage().capabilities())
    except OSError as error:
        log.warning("the storage cannot be probed yet: %s", error)


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
