"""The platforms of 61dba2f, loaded and migrated once a session."""

from collections.abc import Iterator

import pytest

from tests.upgrade.old_platform import OldPlatform, Tables, old_platform


@pytest.fixture(scope="session")
def old_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldPlatform]:
    with old_platform(tmp_path_factory.mktemp("upgrade"), "sqlite") as platform:
        yield platform


@pytest.fixture(scope="session")
def migrated_sqlite(old_sqlite: OldPlatform) -> tuple[Tables, Tables]:
    """Every row of every table, before and after the migration to today's models."""
    return old_sqlite.migrate()


@pytest.fixture(scope="session")
def served(old_sqlite: OldPlatform, migrated_sqlite: tuple[Tables, Tables]) -> Iterator[OldPlatform]:  # noqa: ARG001
    """The SQLite platform, migrated, behind today's API. Tests may add rows to it, and change none of the old ones."""
    with old_sqlite.running():
        yield old_sqlite
