"""docs/commands.md is current, and what other pages say of `anneal` is there."""

import re
from pathlib import Path
from typing import Any

import pytest

from docs.commands import PAGE, command_tree, commands_page

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("", "docs", "examples/shapes")
    for path in (ROOT / folder).glob("*.md")
)
GLOBAL = {"--help", "--install-completion", "--show-completion"}
CALL = re.compile(r"(?:(?<=`)|(?<=^)|(?<=bin/))anneal +([^`\n#|]+)", re.MULTILINE)


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == commands_page(), "run `make docs` and commit docs/commands.md"


def test_every_command_says_what_it_does() -> None:
    assert not [row for row in commands_page().splitlines() if row.endswith("|  |")]


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_names_is_there(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    assert [wrong for call in CALL.findall(text) if (wrong := unknown(call))] == []


@pytest.mark.parametrize("call", ["jobb list", "job lst", "job list --colour", "worker drain --now ID"])
def test_a_command_that_is_not_there_is_found(call: str) -> None:
    assert unknown(call)


def unknown(call: str) -> str:
    """What of `anneal <call>` is no command or option; "" where all is."""
    words = call.split()
    command: Any = command_tree()
    while words and hasattr(command, "commands") and re.fullmatch(r"[a-z-]+", words[0]) and words[0][0] != "-":
        if words[0] not in command.commands:
            return f"{call}: no command {words[0]}"
        command = command.commands[words.pop(0)]
    options = {option for param in command.params for option in param.opts + param.secondary_opts} | GLOBAL
    wrong = [word for word in words if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options]
    return f"{call}: no option {', '.join(wrong)}" if wrong else ""
