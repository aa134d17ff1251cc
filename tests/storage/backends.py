"""The backends that the contract is checked on. A new one is a context manager and a line in BACKENDS."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from storage import Storage
from storage.links import link_app
from storage.local import LocalStorage
from tests.storage.server import serving

SECRET = "a secret of the tests"


@contextmanager
def local(folder: Path) -> Iterator[Storage]:
    made: list[LocalStorage] = []

    def app(base: str) -> object:
        made.append(LocalStorage(folder / "root", link_base=f"{base}/storage", secret=SECRET))
        return link_app(made[0])

    with serving(app):
        yield made[0]


BACKENDS: dict[str, Callable[[Path], AbstractContextManager[Storage]]] = {"local": local}
