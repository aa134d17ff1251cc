import itertools
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from storage import Storage
from tests.patience import PATIENCE_SECONDS
from tests.storage.backends import BACKENDS

NUMBERS = itertools.count()


@pytest.fixture(scope="session", params=sorted(BACKENDS))
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Storage]:
    with BACKENDS[request.param](tmp_path_factory.mktemp(request.param)) as backend:
        yield backend


@pytest.fixture
def prefix() -> str:
    """A prefix of its own for each test."""
    return f"tests/{next(NUMBERS)}"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(bytes(range(256)) * 10)
    return path


@pytest.fixture(scope="session")
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=PATIENCE_SECONDS, verify=False, trust_env=False) as client:
        yield client
