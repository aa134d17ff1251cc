"""Text that others read in terminals, logs and pages: characters that act there instead of being shown are refused."""

import re
from typing import Annotated

from pydantic import AfterValidator

ACTING = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""C0 (with ESC) but tab and newline, DEL, C1, line separators, and what overrides or embeds a direction of writing.

The marks U+200E and U+200F stay: names in Arabic and Hebrew need them, and they reorder nothing else.
"""
IN_LINE = re.compile(f"[{ACTING}\t\n]")
IN_TEXT = re.compile(f"[{ACTING}]")


def line_check(value: str) -> str:
    """`value`. Raises ValueError with the first character that has no place in one line."""
    return _checked(value, IN_LINE)


def line_clean(value: str) -> str:
    """`value` without those characters, for what cannot be refused any more."""
    return IN_LINE.sub("", value)


def _text(value: str) -> str:
    return _checked(value.replace("\r\n", "\n"), IN_TEXT)


def _checked(value: str, refused: re.Pattern[str]) -> str:
    if match := refused.search(value):
        raise ValueError(f"has the control character U+{ord(match[0]):04X} at position {match.start()}; remove it")
    return value


PlainLine = Annotated[str, AfterValidator(line_check)]
"""A name: one line."""
PlainText = Annotated[str, AfterValidator(_text)]
"""A note: lines and tabs."""
