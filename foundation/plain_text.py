"""Text that can be displayed and stored: rejects control characters, replaces what databases and JSON cannot hold."""

import math
import re
from typing import Annotated, Any

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
REPLACEMENT = "\ufffd"
MAX_DEPTH = 90
"""Deeper lists and objects are replaced by a note; the API rejects more than 100 levels in a request."""
MAX_INTEGER = 2**63 - 1
TOO_DEEP = f"(left out: nested deeper than {MAX_DEPTH} levels)"


def text_clean(text: str) -> str:
    """Replaces each NUL and lone surrogate by U+FFFD."""
    if "\0" in text:
        text = text.replace("\0", REPLACEMENT)
    if text.isascii():
        return text
    return "".join(REPLACEMENT if "\ud800" <= letter <= "\udfff" else letter for letter in text)


def value_clean(value: Any, depth: int = 0) -> Any:
    """Cleans all text of a JSON value, also keys. Non-finite numbers become null, integers over 64 bits text.

    Idempotent.
    """
    match value:
        case str():
            return text_clean(value)
        case dict() | list() | tuple() if depth >= MAX_DEPTH:
            return TOO_DEEP
        case dict():
            return {text_clean(str(key)): value_clean(item, depth + 1) for key, item in value.items()}
        case list() | tuple():
            return [value_clean(item, depth + 1) for item in value]
        case float() if not math.isfinite(value):
            return None
        case int() if abs(value) > MAX_INTEGER:
            return f"{value:#x}"
    return value
