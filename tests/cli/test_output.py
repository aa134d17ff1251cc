"""Text of others on a terminal: shown, never obeyed."""

import io
import json
import sys
from typing import Any

import pytest
from rich.progress import Progress, TextColumn

from cli import output, watch
from cli.errors import CliError
from cli.output import TerminalConsole, json_text, stdout_write, terminal_text

CLIPBOARD = "\x1b]52;c;ZXZpbA==\x07"
EVIL = f"good{CLIPBOARD}\x1b[2J\x9b31m\x1bc\x1bP1$r\x1b\\\u202e\x07\x08 name"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, "good name"),
        ("step 1\r\nstep 2\rstep 3\n", "step 1\nstep 2\nstep 3\n"),
        ("\x1b[1;31mred\x1b[0m\ttab", "red\ttab"),
        ("שלום\u200f 猫 é", "שלום\u200f 猫 é"),
        ("\x1b]0;never ended", ""),
        ("\x1b", ""),
    ],
)
def test_sequences_and_control_characters_are_removed(text: str, shown: str) -> None:
    assert terminal_text(text) == shown


def harmless(written: str) -> bool:
    return not output.CONTROL.search(written)


def test_tables_records_errors_and_events_show_no_control_character(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.StringIO()
    for module in (output, watch):
        monkeypatch.setattr(module, "err", TerminalConsole(file=written, highlight=False))
    monkeypatch.setattr(output, "out", TerminalConsole(file=written, highlight=False))
    error = CliError(EVIL, EVIL)
    error.fields = {EVIL: [f"{EVIL}!"]}
    output.print_table([{"name": EVIL}], {"name": "name"})
    output.print_record({"name": EVIL}, ["name"])
    output.print_done({}, EVIL, as_json=False)
    output.print_error(error, as_json=False)
    with watch.lines() as show:
        show({"kind": "warning", "data": {"message": EVIL}})
        show({"kind": EVIL, "data": {}})
    assert written.getvalue().count("good name") >= 7
    assert harmless(written.getvalue())


def test_the_bar_of_a_job_shows_its_name_without_sequences() -> None:
    screen = Terminal()
    console = TerminalConsole(file=screen, force_terminal=True, width=80)
    with Progress(TextColumn("{task.description}"), console=console, auto_refresh=False) as progress:
        progress.add_task(EVIL, total=None)
        progress.console.print(EVIL)
        progress.refresh()
    assert "good name" in screen.getvalue()
    assert not any(part in screen.getvalue() for part in (CLIPBOARD, "\x1b[2J", "\x9b", "\x1bc", "\u202e"))


def test_a_log_is_cleaned_on_a_terminal_and_as_it_is_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, expected in ((Terminal(), "good name"), (io.StringIO(), EVIL)):
        monkeypatch.setattr(sys, "stdout", stream)
        stdout_write(EVIL)
        assert stream.getvalue() == expected


def test_json_holds_the_same_values_and_no_control_character() -> None:
    value: Any = {"name": EVIL + "\x7f"}
    written = json_text(json.dumps(value, ensure_ascii=False, indent=2))
    assert harmless(written)
    assert json.loads(written) == value


def test_every_console_of_the_command_line_cleans() -> None:
    assert isinstance(output.out, TerminalConsole)
    assert isinstance(output.err, TerminalConsole)
