"""What the pages in docs/ tell a reader to type works, word for word."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Embedded
from tests.e2e.pages import page_run


@pytest.mark.slow
def test_the_page_of_the_python_client_runs(embedded: Embedded, tmp_path: Path) -> None:
    said = page_run("client.md", "python", embedded, tmp_path)
    assert "client-style@1" in said
