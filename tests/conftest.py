"""What all tests share: one thread, no network, the tiny base model, the shared data."""

import importlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # two threads on a busy core cost ten times the CPU; torch reads it at import
os.environ["HF_HUB_OFFLINE"] = "1"

import hypothesis
import pytest

from tests.scheduling import pytest_xdist_make_scheduler  # noqa: F401  a hook that pytest finds here

INSTALLED = (metadata.distribution("anneal").read_text("top_level.txt") or "").split()
if missing := {"foundation", "formats"} - set(INSTALLED):
    pytest.exit(f"{missing} are newer than .venv; run .venv/bin/pip install -e . --no-deps", returncode=3)

hypothesis.settings.register_profile("any_machine", deadline=None)  # a slow example is no failure
hypothesis.settings.load_profile("any_machine")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random Stable Diffusion 1.x base (images of 64 px), made once. Read only."""
    builder = importlib.import_module("tests.tiny_sd")  # tests of the API shall not wait for torch
    folder: Path = builder.build_tiny_sd(tmp_path_factory.mktemp("tiny_sd"))
    return folder


@pytest.fixture(scope="session")
def tiny_base(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a random base of a kind: sd1, sd2, sdxl, sd3, sd3_without_t5, sd35, flux, flux_schnell. Read only."""
    made = {"sd1": tiny_sd}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            builder = importlib.import_module("tests.tiny_families")
            made[kind] = builder.BUILDERS[kind](tmp_path_factory.mktemp(f"tiny_{kind}"))
        return made[kind]

    return folder_of


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Data that lies beside the checkout, not in it."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"{SHARED_DATA} is not there: this test needs the data set beside the checkout")
    return SHARED_DATA
