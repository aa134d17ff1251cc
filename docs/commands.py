"""Writes docs/commands.md from the command line itself: python -m docs.commands."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from cli.main import ENTRIES, app

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Which commands are there?

Written from the code by `python -m docs.commands` (part of `make docs`); do not edit by hand. `anneal COMMAND --help`
has the options. Every command takes `--json`: then the answer is JSON on standard output, and an error is
`{"code", "message", "hint", "fields"}` on standard error.

| exit code | |
|---|---|
| 0 | done; of `--watch`, `watch` and `sample`: the job succeeded |
| 1 | the request was refused, or the job failed |
| 2 | the command line itself is wrong, or there is no login |
| 3 | the job was cancelled or paused |
| 4 | the API does not answer |

**Completion.** `anneal --install-completion` sets it up for your shell (bash, zsh, fish); for one session of
bash, `eval "$(_ANNEAL_COMPLETE=source_bash anneal)"`. TAB then offers commands, options, the names of templates,
datasets, models, adaptors, methods, projects and secrets, and the ids of jobs, workers and tokens, asked of the API;
where it does not answer within a second, no names.
"""


def main() -> int:
    PAGE.write_text(commands_page(), encoding="utf-8")
    return 0


def commands_page() -> str:
    rows = [command_row(path, command) for path, command in commands(command_tree(), "anneal")]
    return "\n".join([HEAD, "| command | what it does |", "|---|---|", *rows, ""])


def command_tree() -> Any:
    """The whole command line, with every command imported."""
    root: Any = typer.main.get_command(app)
    for entry in ENTRIES:
        root.load(entry.name)
    return root


def commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every command below, with the words that call it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield path, command
        return
    for name, child in below.items():
        yield from commands(child, f"{path} {name}")


def command_row(path: str, command: Any) -> str:
    arguments = [argument_text(param) for param in command.params if param.param_type_name == "argument"]
    summary = " ".join((command.help or "").split("\n\n")[0].split())
    return f"| `{' '.join([path, *arguments])}` | {summary.replace('|', chr(92) + '|')} |"


def argument_text(param: Any) -> str:
    name = (param.metavar or param.name).upper().rstrip("_")
    return name if param.required else f"[{name}]"


if __name__ == "__main__":
    sys.exit(main())
