"""The storage of this installation, opened from the settings."""

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
