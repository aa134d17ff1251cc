"""Rows of a dataset of text and what they may hold: strict JSON, characters that can be stored, finite numbers."""

import math
from typing import Any

from foundation.strict_json import JsonError, json_read, text_fault

MAX_DEPTH = 32
"""Lists and objects in each other."""
ROW = "the row"
KINDS = {str: "text", bool: "yes or no", int: "number", float: "number", list: "list", dict: "object", bytes: "bytes"}
"""Words for the types of values."""
Row = tuple[int, Any]
"""Line, or number of the row, from 1; and the row: a dict, or a ValueError in the place of what cannot be read."""


class DatasetError(ValueError):
    """A file of a dataset cannot be read. The message begins with the file and says the line; `hint`: the way out."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def json_value(text: str) -> Any:
    """The value, or a ValueError that says what is wrong: syntax, depth, a duplicate key, a forbidden character."""
    try:
        return json_read(text, ROW, max_depth=MAX_DEPTH)
    except JsonError as error:
        return ValueError(str(error).removeprefix(f"{ROW}: ").removeprefix(f"{ROW} is "))


def row_fault(row: Any) -> str:
    """Why no method can use this row, whatever its columns mean; "" where nothing is wrong with it."""
    if isinstance(row, ValueError):
        return str(row)
    if not isinstance(row, dict):
        return f"expected an object, got {value_named(row)}"
    if fault := value_fault(row):
        return fault
    if any(isinstance(value, float) and not math.isfinite(value) for value in row.values()):
        return "has a number that is not finite"
    return ""


def value_fault(value: Any, where: str = "") -> str:
    """Which text in `value` has a character that no tokenizer, database or file can hold; "" where none has."""
    if isinstance(value, str):
        fault = "" if value.isascii() and "\0" not in value else text_fault(value)
        return f"expected text, got {fault}{where}" if fault else ""
    if isinstance(value, dict):
        keys = (value_fault(key, " in a key") for key in value if isinstance(key, str))
        items = (value_fault(item, where or f" under {key!r:.100}") for key, item in value.items())
        return next((fault for faults in (keys, items) for fault in faults if fault), "")
    if isinstance(value, (list, tuple)):
        return next((fault for item in value if (fault := value_fault(item, where))), "")
    return ""


def value_kind(value: Any) -> str:
    return KINDS.get(type(value), type(value).__name__)


def value_named(value: Any) -> str:
    """For an error: "number 3", "nothing"."""
    return "nothing" if value is None else f"{value_kind(value)} {value!r:.60}"
