"""Contents of requests: bounded JSON whose values every database can store; views with one media type."""

import math
import re
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import JSONParser
from rest_framework.request import Request

from api.server.request_limits import DEFAULT, BodyLimit, body_limit_for
from foundation.plain_text import value_clean

MAX_DEPTH = 100
MAX_KEYS = 10_000
"""In one object."""
STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
BRACKETS = re.compile(rb"[^\[\]{}]+")
MAX_INTEGER = 2**63 - 1
"""The largest integer of the databases."""


class BoundedJSONParser(JSONParser):
    """Checks the number of values (`body_limit_for` the route) and MAX_DEPTH before it builds any object."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        context = parser_context or {}
        data = stream.read()
        json_bounds_check(data, body_limit_for(context["request"].path) if "request" in context else DEFAULT)
        return super().parse(BytesIO(data), media_type, {**context, "encoding": "utf-8"})


class StrictJSONParser(BoundedJSONParser):
    """Rejects values that JSON allows but a database, or a program that reads it, does not."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return values_check(super().parse(stream, media_type, parser_context))


class CleaningJSONParser(BoundedJSONParser):
    """For workers: cleans values that no database can store, since a rejection would lose the result of a training."""

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        return value_clean(super().parse(stream, media_type, parser_context))


def json_bounds_check(data: bytes, limit: BodyLimit) -> None:
    """Counts values and depth in the text, before any object is built. Raises ParseError."""
    frame = STRING.sub(b"", data)
    if sum(frame.count(mark) for mark in (b",", b"[", b"{")) >= limit.max_values:
        raise ParseError(f"it has more than {limit.max_values} values.")
    depth = 0
    for bracket in BRACKETS.sub(b"", frame):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_DEPTH:
            raise ParseError(f"it is nested deeper than {MAX_DEPTH} levels.")


def values_check(parsed: Any) -> Any:
    """Returns `parsed` if every database can store it. Raises ParseError."""
    for value in _values(parsed):
        if fault := _fault(value):
            raise ParseError(fault)
    return parsed


def _values(parsed: Any) -> Iterator[Any]:
    """Every key and scalar. Raises ParseError for an object with too many keys."""
    pending: list[Any] = [parsed]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if len(value) > MAX_KEYS:
                raise ParseError(f"an object has {len(value)} keys; at most {MAX_KEYS} are allowed.")
            yield from value
            pending += value.values()
        elif isinstance(value, list):
            pending += value
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


class FixedNegotiation(BaseContentNegotiation):
    def select_parser(self, request: Request, parsers: Any) -> Any:  # noqa: ARG002 DRF's hook
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:  # noqa: ARG002
        return renderers[0], renderers[0].media_type
