"""What a command prints: tables and sentences for people, JSON for programs (`--json`)."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.segment import Segment
from rich.table import Table

from cli.config import login_load
from cli.errors import CliError
from cli.http import Client, Record
from foundation.multipart import OnBytes

SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"  # OSC 52 and other strings
    r"|\x1b[ -/]*[0-~]"
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 but tab and newline, DEL, C1, overrides of the direction of writing."""


def terminal_text(text: str) -> str:
    """`text` without escape sequences and control characters; tabs and newlines stay, and a lone CR is a newline."""
    if text.isprintable() or text == "\n":
        return text
    lines = SEQUENCE.sub("", text).replace("\r\n", "\n").replace("\r", "\n")
    return CONTROL.sub("", lines)


def json_text(text: str) -> str:
    """JSON in which such characters are written as escapes: the same values, and harmless to show."""
    return text if text.isprintable() else CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def stdout_write(text: str) -> None:
    """Text as it came into a file or pipe; cleaned where standard output is a terminal."""
    sys.stdout.write(terminal_text(text) if sys.stdout.isatty() else text)


class TerminalConsole(Console):
    """Cleans whatever is rendered; the sequences that rich itself makes (colours, cursor) come after or beside it."""

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        return _cleaned(super().render(renderable, options))


def _cleaned(segments: Iterable[Segment]) -> Iterator[Segment]:
    for segment in segments:
        yield segment if segment.control else Segment(terminal_text(segment.text), segment.style)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

WIDE = 10_000
"""Columns of standard output: a terminal wraps what is longer than its own, a pipe needs no wrapping."""

out = TerminalConsole(highlight=False, width=WIDE)
err = TerminalConsole(stderr=True, highlight=False)


@contextmanager
def connect() -> Iterator[Client]:
    with Client(login_load()) as client:
        yield client


def print_json(value: Any) -> None:
    sys.stdout.write(json_text(json.dumps(value, indent=2, ensure_ascii=False)) + "\n")


def print_json_line(value: Any) -> None:
    sys.stdout.write(json_text(json.dumps(value, ensure_ascii=False)) + "\n")
    sys.stdout.flush()


def print_table(rows: Iterable[Record], columns: dict[str, str]) -> None:
    """`columns` is {heading: key}; a dotted key looks inside. A row is a line, whole, however wide the terminal is."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in columns:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*(escape(terminal_text(text(dig(row, key))).replace("\n", "\\n")) for key in columns.values()))
    out.print(table if table.row_count else "nothing here yet")


def print_rows(rows: list[Record], columns: dict[str, str], *, as_json: bool) -> None:
    """A list, for programs or for people."""
    if as_json:
        print_json(rows)
    else:
        print_table(rows, columns)


def print_list(path: str, columns: dict[str, str], *, as_json: bool) -> None:
    """All records of the API's list at `path`."""
    with connect() as client:
        rows = list(client.pages(path))
    print_rows(rows, columns, as_json=as_json)


def print_done(answer: Any, sentence: str, *, as_json: bool) -> None:
    """What a change answered, for programs; what was done, for people."""
    if as_json:
        print_json(answer)
    else:
        out.print(escape(sentence), soft_wrap=True)


def print_record(record: Record, keys: Iterable[str]) -> None:
    """One `key  value` line for each key that has a value."""
    for key in keys:
        value = dig(record, key)
        if value not in (None, "", [], {}):
            out.print(f"[bold]{key.replace('_', ' '):<14}[/bold] {escape(text(value))}", soft_wrap=True)


def dig(record: Record, key: str) -> Any:
    value: Any = record
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)


def human_bytes(size: int) -> str:
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def print_error(error: CliError, *, as_json: bool) -> None:
    if as_json:
        answer = {"code": error.code, "message": error.message, "hint": error.hint, "fields": error.fields}
        sys.stderr.write(json_text(json.dumps(answer, ensure_ascii=False)) + "\n")
        return
    err.print(f"[bold red]error:[/bold red] {escape(error.message)}", soft_wrap=True)
    for name, messages in error.fields.items():
        sentences = [messages] if isinstance(messages, str) else [str(one) for one in messages]
        for sentence in sentences:
            if sentence not in error.message:
                err.print(f"  {escape(f'{name}: {sentence}' if name else sentence)}", soft_wrap=True)
    if error.hint:
        err.print(escape(error.hint), style="dim", soft_wrap=True)


@contextmanager
def transfer_bar(what: str, total_bytes: int, *, quiet: bool) -> Iterator[OnBytes]:
    """A progress bar on standard error that counts bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, disable=quiet or not err.is_terminal, transient=True) as progress:
        task = progress.add_task(escape(what), total=total_bytes)
        yield lambda num_bytes: progress.advance(task, num_bytes)
