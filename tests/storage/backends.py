"""The backends that the contract is checked on. A new one is a context manager and a line in BACKENDS."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from storage import Storage, open_storage
from storage.links import link_app
from storage.local import LocalStorage
from tests.storage.seaweed import seaweed_running
from tests.storage.server import serving

SECRET = "a secret of the tests"


@contextmanager
def local(folder: Path) -> Iterator[Storage]:
    created: list[LocalStorage] = []

    def app(base: str) -> object:
        created.append(LocalStorage(folder / "root", link_base=f"{base}/storage", secret=SECRET))
        return link_app(created[0])

    with serving(app):
        yield created[0]


@contextmanager
def s3(folder: Path) -> Iterator[Storage]:
    with seaweed_running(folder) as seaweed:
        yield open_storage(f"{seaweed.url}/below/it", link_base="", secret=SECRET, s3=seaweed.options)


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Storage]]] = {"local": local, "s3": s3}
