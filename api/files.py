"""The one storage of this installation, opened from the settings."""

from functools import lru_cache

from api.environment import environment
from storage import Storage, open_storage
from storage.links import App, link_app
from storage.local import LocalStorage

LINK_PATH = "/storage/"


@lru_cache(maxsize=1)
def storage() -> Storage:
    found = environment()
    base = found.public_url.rstrip("/") + LINK_PATH
    return open_storage(found.storage_url, link_base=base, secret=found.secret_key)


def storage_app() -> App | None:
    """What serves signed links below LINK_PATH; None where the storage serves its own."""
    found = storage()
    return link_app(found, prefix=LINK_PATH) if isinstance(found, LocalStorage) else None
