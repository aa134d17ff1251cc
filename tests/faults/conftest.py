"""One real platform per database for all faults; each test has a pool, hosts and jobs of its own."""

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.platform import Platform, platform_running
from tests.faults.scene import Scene

ON = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.slow)]


@pytest.fixture(scope="package")
def platforms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Platform]]:
    """Platforms that were started so far, by database."""
    with ExitStack() as running:
        yield _Started(running, tmp_path_factory)


class _Started(dict[str, Platform]):
    """Starts a platform when it is first asked for."""

    def __init__(self, running: ExitStack, folders: pytest.TempPathFactory) -> None:
        super().__init__()
        self._running, self._folders = running, folders

    def __missing__(self, database: str) -> Platform:
        self[database] = self._running.enter_context(platform_running(self._folders.mktemp(database), database))
        return self[database]


@pytest.fixture(params=ON)
def platform(request: pytest.FixtureRequest, platforms: dict[str, Platform]) -> Iterator[Platform]:
    """A healthy platform on SQLite, and again on PostgreSQL (slow)."""
    result = platforms[request.param]
    result.heal()
    yield result
    result.heal()


@pytest.fixture
def scene(platform: Platform, tmp_path: Path) -> Iterator[Scene]:
    """A pool of this test alone: its hosts are gone after it."""
    created = Scene(platform, tmp_path, f"pool-{uuid.uuid4().hex[:8]}")
    yield created
    created.close()
