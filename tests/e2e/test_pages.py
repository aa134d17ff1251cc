"""What the pages in docs/ tell a reader to type works, word for word."""

import shutil
from pathlib import Path

import pytest

from tests.e2e.conftest import Embedded
from tests.e2e.pages import ROOT, blocks, page_run


@pytest.mark.slow
def test_the_page_of_the_python_client_runs(embedded: Embedded, tmp_path: Path) -> None:
    said = page_run("client.md", "python", embedded, tmp_path)
    assert "client-style@1" in said


@pytest.mark.slow
def test_the_quick_start_runs(embedded: Embedded, tmp_path: Path) -> None:
    page_run("quickstart.md", "sh", embedded, tmp_path)
    assert (tmp_path / "compare.png").exists()
    assert (tmp_path / "first" / "manifest.json").exists()


def test_the_quick_start_starts_only_what_is_tested_elsewhere() -> None:
    assert blocks("quickstart.md", "console") == ["make demo\n", "make up\n"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guide_to_the_api_runs_with_curl(embedded: Embedded, tmp_path: Path) -> None:
    embedded.anneal("model", "add", "shapes-base", str(ROOT / "examples" / "shapes" / "base"))
    page_run("api.md", "sh", embedded, tmp_path)


@pytest.mark.slow
def test_the_guide_to_the_api_runs_with_python(embedded: Embedded, tmp_path: Path) -> None:
    page_run("api.md", "python", embedded, tmp_path)
