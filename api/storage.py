"""The one storage of this installation, opened from the settings."""

import logging
from functools import lru_cache

from api.environment import environment
from storage import Storage, open_storage
from storage.links import App, link_app
from storage.local import LocalStorage

LINK_PATH = "/storage/"
log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def storage() -> Storage:
    found = environment()
    base = found.public_url.rstrip("/") + LINK_PATH
    return open_storage(found.storage_url, link_base=base, secret=found.secret_key, s3=found.s3_options)


def storage_app() -> App | None:
    """What serves signed links below LINK_PATH; None where the storage serves its own."""
    found = storage()
    return link_app(found, prefix=LINK_PATH) if isinstance(found, LocalStorage) else None


def storage_probe() -> None:
    """At start: what the storage really does is found out before the first user needs it, and logged.

    One that does not answer yet costs a warning: `/readyz` says so, and the next call probes again.
    """
    try:
        log.info("storage: %s", storage().capabilities())
    except OSError as error:
        log.warning("the storage cannot be probed yet: %s", error)
