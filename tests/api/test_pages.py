"""What the pages say of `python -m api` is there."""

import re
from pathlib import Path

from django.core.management import get_commands

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"python -m api ([a-z_]+)")


def test_every_command_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in COMMAND.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(get_commands())
