from pathlib import Path

import pytest

import tests.e2e.pages as pages
from tests.e2e.conftest import Embedded


def test_page(embedded: Embedded, tmp_path: Path) -> None:
    sources = pages.blocks("text.md", "sh")
    (tmp_path / "examples").symlink_to("/tmp/ex/examples")
    import subprocess

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(sources)],
        cwd=tmp_path,
        env=pages.reader(embedded),
        capture_output=True,
    )
    Path("/tmp/page.out").write_bytes(done.stdout + b"\n=====\n" + done.stderr)
    if done.returncode:
        Path("/tmp/page.logs").write_text(embedded.logs())
    assert done.returncode == 0
