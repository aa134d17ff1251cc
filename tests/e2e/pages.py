"""The code blocks of a page in docs/, run in order as a reader would: one Python session, one shell."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import Embedded

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    """Source of every block of `docs/<page>` in this language."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return [source for result, source in BLOCK.findall(text) if result == language]


def page_run(page: str, language: str, platform: Embedded, folder: Path) -> str:
    """Runs them in `folder`, where the examples lie; returns what they printed. Fails with all that was said."""
    sources = blocks(page, language)
    assert sources, f"docs/{page} has no {language} block"
    (folder / "examples").symlink_to(ROOT / "examples")
    command = {"python": [sys.executable, "-c"], "sh": ["bash", "-euo", "pipefail", "-c"]}[language]
    done = subprocess.run([*command, "\n".join(sources)], cwd=folder, env=reader(platform), capture_output=True)
    message = done.stdout.decode() + done.stderr.decode()
    assert done.returncode == 0, f"docs/{page} ended with {done.returncode}:\n{message}\n{platform.logs()}"
    return done.stdout.decode()


def reader(platform: Embedded) -> dict[str, str]:
    """A person's environment: logged in, `anneal` and `python` in PATH, `folder` that of the platform."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, **platform.env, "PATH": path, "PYTHONPATH": str(ROOT), "folder": str(platform.root)}
