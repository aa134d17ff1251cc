"""What all tests share: one thread, no network, the tiny base model, the shared data."""

import functools
import gc
import importlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two threads on a busy core cost ten times the CPU; torch reads it at import
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

from tests.built_once import built_once
from tests.long_tests import pytest_collection_modifyitems  # noqa: F401  a hook that pytest finds here
from tests.scheduling import pytest_xdist_make_scheduler  # noqa: F401  a hook that pytest finds here

INSTALLED = (metadata.distribution("anneal").read_text("top_level.txt") or "").split()
if missing := {"foundation", "formats"} - set(INSTALLED):
    pytest.exit(f"{missing} are newer than .venv; run .venv/bin/pip install -e . --no-deps", returncode=3)

os.fsync = os.fdatasync = lambda _fd: None  # no test cuts the power, and a job waits for the disk 20 times
gc.disable()  # imports make millions of objects and no garbage: looking for it took a seventh of their time

hypothesis.settings.register_profile("any_machine", deadline=None)  # a slow example is no failure
hypothesis.settings.load_profile("any_machine")


def pytest_collection_finish() -> None:
    """What is imported by now stays, so nobody looks through it again."""
    gc.freeze()
    gc.enable()


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random base of a kind: sd1, sd2, sdxl, sd3, sd3_without_t5, sd35, flux, flux_schnell. Read only."""

    def folder_of(kind: str) -> Path:
        builders = importlib.import_module("tests.tiny_families")  # tests of the API shall not wait for torch
        return built_once(tmp_path_factory, f"tiny_{kind}", builders.BUILDERS[kind])

    return functools.cache(folder_of)


@pytest.fixture(scope="session")
def tiny_sd(tiny_base: Callable[[str], Path]) -> Path:
    """Folder of a random Stable Diffusion 1.x base (images of 64 px). Read only."""
    return tiny_base("sd1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data that lies beside the checkout, not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not there: this test needs the data set beside the checkout")
    return SHARED_DATA
