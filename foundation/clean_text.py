"""Makes values storable: text without NUL and lone surrogates, numbers within the range of databases and JSON."""

import math
from typing import Any

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
