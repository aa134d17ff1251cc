"""Reads JSON from untrusted files: rejects duplicate keys, deep nesting, non-finite numbers, NUL and surrogates."""

import json
import math
from typing import Any

MAX_DEPTH = 64
"""Lists and objects inside each other; real configurations stay below 10."""
SHOWN = 100
"""Characters of a key that an error repeats."""


class JsonError(ValueError):
    """Names the file (or line) and what is wrong in it."""


def json_read(
    raw: bytes | str,
    name: str,
    *,
    max_depth: int = MAX_DEPTH,
    allow_nul: bool = False,
    allow_infinity: bool = False,
) -> Any:
    """The value of `raw` (UTF-8, with or without a byte order mark). Raises JsonError, which begins with `name`.

    `allow_nul`: a string may hold U+0000, as a tokenizer's vocabulary does. `allow_infinity`: a number may be Infinity
    or -Infinity, as in the schedulers' configs that diffusers writes.
    """

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            raise JsonError(f"{name}: duplicate key {_first_duplicate(pairs)!r:.{SHOWN}}; expected each key once")
        return value

    def constant(text: str) -> float:
        if allow_infinity and text != "NaN":
            return float(text)
        raise JsonError(f"{name}: {text} is not JSON; expected a finite number")

    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw.removeprefix("\ufeff")
        value = json.loads(text, object_pairs_hook=members, parse_constant=constant)
    except JsonError:
        raise
    except UnicodeDecodeError as error:
        raise JsonError(f"{name} is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}") from None
    except RecursionError:
        raise JsonError(f"{name}: nested too deeply; expected at most {max_depth} levels") from None
    except ValueError as error:
        raise JsonError(f"{name} is not JSON: {error}") from None
    _values_check(value, name, max_depth, allow_nul=allow_nul, allow_infinity=allow_infinity)
    return value


def json_object_read(
    raw: bytes | str, name: str, *, allow_nul: bool = False, allow_infinity: bool = False
) -> dict[str, Any]:
    """As `json_read`, for a file that must hold an object."""
    value = json_read(raw, name, allow_nul=allow_nul, allow_infinity=allow_infinity)
    if not isinstance(value, dict):
        raise JsonError(f"{name}: expected a JSON object, got {type(value).__name__}")
    return value


def text_fault(text: str) -> str:
    """Why `text` cannot be stored or encoded as UTF-8, or ""."""
    if "\0" in text:
        return "the NUL character (\\u0000)"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "a lone surrogate (half of a character, \\ud800 to \\udfff)"
    return ""


def _values_check(value: Any, name: str, max_depth: int, *, allow_nul: bool, allow_infinity: bool) -> None:
    level, depth = [value], 0
    while level:
        if depth > max_depth:
            raise JsonError(f"{name}: nested too deeply; expected at most {max_depth} levels")
        below: list[Any] = []
        for item in level:
            if isinstance(item, str):
                _text_check(item, name, allow_nul)
            elif isinstance(item, float) and not math.isfinite(item) and not allow_infinity:
                raise JsonError(f"{name}: a number is too large; expected a finite number")
            elif isinstance(item, dict):
                below.extend(item)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level, depth = below, depth + 1


def _text_check(text: str, name: str, allow_nul: bool) -> None:
    if text.isascii() and "\0" not in text:
        return
    fault = text_fault(text.replace("\0", "") if allow_nul else text)
    if fault:
        shown = text[:SHOWN].encode("ascii", "backslashreplace").decode().replace("\0", "\\u0000")
        raise JsonError(f'{name}: "{shown}" holds {fault}; expected text that UTF-8 can hold')


def _first_duplicate(pairs: list[tuple[str, Any]]) -> str:
    names: set[str] = set()
    return next(key for key, _ in pairs if key in names or names.add(key))  # type: ignore[func-returns-value]
