"""Text for terminals, logs and pages: rejects control characters, which act there instead of being shown."""

import re
from typing import Annotated

from pydantic import AfterValidator

CONTROL = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069"
"""C0 (with ESC) except tab and newline, DEL, C1, line separators, and overrides and embeddings of writing direction.

The marks U+200E and U+200F are allowed: names in Arabic and Hebrew need them, and they do not reorder other text.
"""
IN_LINE = re.compile(f"[{CONTROL}\t\n]")
IN_TEXT = re.compile(f"[{CONTROL}]")


def line_check(value: str) -> str:
    """Returns `value`. Raises ValueError for the first control character, tab or newline."""
    return _checked(value, IN_LINE)


def line_clean(value: str) -> str:
    """Removes those characters, for values that cannot be rejected any more."""
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
