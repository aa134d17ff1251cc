"""What may reach a terminal: text of the API, of jobs and of files is shown, and never obeyed."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console
from rich.segment import Segment

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
