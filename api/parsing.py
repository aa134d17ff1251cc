"""The bodies that the API reads: JSON of values that every database can keep."""

import math
from collections.abc import Iterator
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

MAX_DEPTH = 100
MAX_INTEGER = 2**63 - 1
"""What the databases' integers hold."""


class StrictJSONParser(JSONParser):
    """Refuses what JSON allows and a database, or a program that reads it, does not."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        try:
            parsed = super().parse(stream, media_type, parser_context)
        except RecursionError:
            raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels.") from None
        return values_check(parsed)


def values_check(parsed: Any) -> Any:
    """The same, when every database can keep it. Raises ParseError."""
    for value in _values(parsed):
        if said := _fault(value):
            raise ParseError(said)
    return parsed


def _values(parsed: Any) -> Iterator[Any]:
    """Every key and single value. Raises ParseError where it is too deep."""
    waiting: list[tuple[Any, int]] = [(parsed, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels.")
        if isinstance(value, dict):
            yield from value
            waiting += ((inner, depth + 1) for inner in value.values())
        elif isinstance(value, list):
            waiting += ((inner, depth + 1) for inner in value)
        else:
            yield value


def _fault(value: Any) -> str:
    match value:
        case str() if "\0" in value:
            return f"{value[:50]!r} has a null character."
        case str() if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
            return f"{value[:50]!r} has half of a surrogate pair."
        case int() if abs(value) > MAX_INTEGER:
            return f"{str(value)[:30]}... is beyond 64 bits."
        case float() if not math.isfinite(value):
            return "a number is beyond what a double holds."
    return ""
