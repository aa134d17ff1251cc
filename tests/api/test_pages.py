"""What the pages say of `python -m api` is there."""

import re
from pathlib import Path

from django.core.management import get_commands
from drf_spectacular.generators import SchemaGenerator

ROOT = Path(__file__).resolve().parents[2]
COMMAND = re.compile(r"python -m api ([a-z_]+)")


def test_every_command_that_a_page_names_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in COMMAND.findall(page.read_text(encoding="utf-8"))}
    assert named
    assert named <= set(get_commands())


def test_every_address_is_on_a_page() -> None:
    page = "".join((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("rest.md", "protocol.md"))
    missing = {address for address in addresses() if not re.search(rf"[/` ]{last_word(address)}\b", page)}
    assert not missing


def addresses() -> set[str]:
    """Of users and of workers, as their description lists them."""
    return set(SchemaGenerator().get_schema(request=None, public=True)["paths"])


def last_word(address: str) -> str:
    """`cancel` of /api/v1/jobs/{ref}/cancel."""
    return [part for part in address.split("/") if part and not part.startswith("{")][-1]
