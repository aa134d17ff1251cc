"""What a row of text may hold, for the check at upload and for trainers: strict JSON, characters, CSV separators."""

import csv
import io
from collections.abc import Collection
from typing import Any

from foundation.strict_json import JsonError, json_read, text_fault

MAX_DEPTH = 32
"""Lists and objects in each other."""
ROW = "the row"
SEPARATORS = (",", ";", "\t", "|")
SEPARATOR_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
CHAT_COLUMNS = ("messages", "conversations", "conversation")
PAIR_COLUMNS = (("prompt", "completion"), ("prompt", "response"), ("question", "answer"), ("input", "output"))
"""Prompt and answer; `instruction` with `output`, and `text` alone, are read too."""
CSV_START = 1 << 16
"""Characters from the start of a CSV file that its separator is found in."""


def json_value(text: str) -> Any:
    """The value, or a ValueError that says what is wrong: syntax, depth, a duplicate key, a forbidden character."""
    try:
        return json_read(text, ROW, max_depth=MAX_DEPTH)
    except JsonError as error:
        return ValueError(str(error).removeprefix(f"{ROW}: ").removeprefix(f"{ROW} is "))


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


def columns_are_read(names: Collection[str]) -> bool:
    """Whether methods read rows with these columns by themselves, without templates."""
    pairs = (*PAIR_COLUMNS, ("instruction", "output"))
    return not {"text", *CHAT_COLUMNS}.isdisjoint(names) or any(set(pair) <= set(names) for pair in pairs)


def csv_separator(start: str) -> str:
    """The separator of a CSV file whose text begins with `start` (CSV_START characters of it are enough).

    Raises ValueError that names the separator where the first rows do not agree on it.
    """
    if len(_first_cells(start, ",")) > 1:
        return ","
    others = [separator for separator in SEPARATORS[1:] if len(_first_cells(start, separator)) > 1]
    if not others:
        return ","
    names = " or ".join(SEPARATOR_NAMES[separator] for separator in others)
    if len(others) > 1 or not _rows_agree(start, others[0]):
        raise ValueError(f"its cells seem to be separated by {names}, but its rows do not agree; expected commas")
    return others[0]


def _first_cells(start: str, separator: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(start, newline=""), delimiter=separator, strict=True), [])
    except csv.Error:
        return []


def _rows_agree(start: str, separator: str) -> bool:
    """Whether all rows of `start` have as many cells as the first; the last may be cut off."""
    reader = csv.reader(io.StringIO(start, newline=""), delimiter=separator, strict=True)
    counts: list[int] = []
    try:
        for cells in reader:
            counts += [len(cells)] if cells else []
    except csv.Error:
        if len(start) < CSV_START:
            return False
    if len(start) >= CSV_START:
        counts = counts[:-1] or counts
    return len(set(counts)) == 1
