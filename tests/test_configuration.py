"""docs/configuration.md names every variable that the code reads, and no other."""

import re
from pathlib import Path

from docs.configuration import PAGE, configuration_page

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("api", "worker", "trainers", "storage", "cli")
VARIABLE = re.compile(r"(?<!_)ANNEAL_[A-Z0-9]+(?:_[A-Z0-9]+)*")


def variables(text: str) -> set[str]:
    return set(VARIABLE.findall(text))


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == configuration_page(), "run `make docs` and commit docs/configuration.md"


def test_every_variable_that_the_code_names_is_on_the_page() -> None:
    sources = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    named = {name for path in sources for name in variables(path.read_text(encoding="utf-8"))}
    assert not named - variables(PAGE.read_text(encoding="utf-8"))


def test_other_pages_name_only_variables_that_are_there() -> None:
    pages = [ROOT / "README.md", ROOT / "GUARANTEES.md", *(ROOT / "docs").glob("*.md")]
    existing = variables(PAGE.read_text(encoding="utf-8"))
    wrong = {page.name: variables(page.read_text(encoding="utf-8")) - existing for page in pages}
    assert not {page: names for page, names in wrong.items() if names}
