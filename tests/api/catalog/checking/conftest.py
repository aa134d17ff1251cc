"""Checks in this process, on a folder: the child around them is tested through the API."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from api.catalog.checking.work import Work
from tests.api.actors import Files

HERE = Path(__file__).parent
WorkOf = Callable[[Files], Work]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker("any_database")


@pytest.fixture
def work_of(tmp_path: Path) -> WorkOf:
    """`work_of({path: bytes})`: a check of those files, about to start."""

    def made(files: Files) -> Work:
        for path, data in files.items():
            (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / path).write_bytes(data)
        (tmp_path / "out").mkdir()
        listed = [
            {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for path, data in sorted(files.items())
        ]
        return Work(tmp_path / "in", tmp_path / "out", listed)

    return made
