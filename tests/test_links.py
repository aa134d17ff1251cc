"""Every relative link in the documentation leads to a file that is there, and every anchor to a heading."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "docs", "examples/shapes")
    for path in (ROOT / folder).glob("*.md")
)


def links(text: str) -> list[str]:
    return LINK.findall(CODE.sub("", FENCE.sub("", text)))


def anchors(text: str) -> set[str]:
    """As GitHub makes them: lower case, blanks to hyphens, no punctuation."""
    titles = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def broken(page: Path, text: str) -> list[str]:
    result = []
    for link in links(text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            result.append(f"{link}: there is no such file")
        elif anchor and anchor not in anchors(target.read_text(encoding="utf-8")):
            result.append(f"{link}: there is no such heading")
    return result


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_a_page_resolves(name: str) -> None:
    page = ROOT / name
    assert broken(page, page.read_text(encoding="utf-8")) == []


def test_the_index_names_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    named = {(index.parent / link).resolve() for link in links(index.read_text(encoding="utf-8"))}
    assert {page for page in index.parent.glob("*.md") if page != index} <= named


@pytest.mark.parametrize("link", ["gone.md", "#no-such-heading", "rest.md#no", "../../../etc/passwd"])
def test_a_planted_broken_link_is_found(link: str) -> None:
    assert len(broken(ROOT / "docs" / "README.md", f"[x]({link})")) == 1


@pytest.mark.parametrize("link", ["rest.md", "#documentation", "https://example.org/x", "../README.md#read-on"])
def test_a_good_link_passes(link: str) -> None:
    assert broken(ROOT / "docs" / "README.md", f"[x]({link})") == []
