"""Folders that are built once in a run of the tests, whichever of xdist's processes needs them first. Read only."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest


def folder_shared(factory: pytest.TempPathFactory, name: str) -> Path:
    """A folder of that name which all processes of this run share."""
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    root = factory.getbasetemp().parent if is_worker else factory.getbasetemp()
    folder = root / "shared" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def built_once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], Path]) -> Path:
    """What `build` makes of the folder that it gets."""
    place = folder_shared(factory, name)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            shutil.rmtree(place / "base", ignore_errors=True)  # left by a build that failed
            build(place / "base")
            (place / "complete").touch()
    return place / "base"
