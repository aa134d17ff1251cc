"""Filters and sorts adaptors by their manifests: `metrics.loss__lt=0.1`, `params.lora_r=8`, `sort=-metrics.loss`.

    condition  <path>[__<operator>]=<value>
    path       manifest.<key>[.<key>...]; params.<key> and metrics.<key> are short for manifest.params.<key> and so on
    operator   ne, lt, lte, gt, gte, in (values separated by commas), contains (text, any case), exists (true or false)
    sort       created, name, version, size_bytes or a path, which sorts numbers before texts; - before it: the highest
               first; adaptors without the value come last

Only scalars are compared. Paths and values are bound as parameters, never part of the SQL.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Case, F, FloatField, Func, Q, QuerySet, TextField, Value, When
from django.db.models.functions import Coalesce

from api.catalog.models import Adaptor
from api.errors import Problem

ROOTS = {"manifest": (), "params": ("params",), "metrics": ("metrics",)}
KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_/@ -]{0,63}")
ORDERED = ("lt", "lte", "gt", "gte")
OPERATORS = ("ne", *ORDERED, "in", "contains", "exists")
COLUMNS = ("created", "name", "version", "size_bytes")
MAX_DEPTH, MAX_CONDITIONS, MAX_VALUES = 8, 20, 50
FAR = 1e308
"""Takes the place of a missing value, so that it sorts last."""

Path = tuple[str, ...]


class ManifestNumber(Func):
    """The number at a path of the manifest, else null."""

    output_field = FloatField()

    def __init__(self, path: Path) -> None:
        super().__init__(F("manifest"))
        self.path = path

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:  # noqa: ARG002 Django's hook
        column, bound = compiler.compile(self.source_expressions[0])
        path = sqlite_path(self.path)
        value = f"CAST(json_extract({column}, %s) AS REAL)"
        sql = f"CASE WHEN json_type({column}, %s) IN ('integer', 'real') THEN {value} END"
        return sql, [*bound, path, *bound, path]

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:  # noqa: ARG002
        column, bound = compiler.compile(self.source_expressions[0])
        path = list(self.path)
        value = f"({column} #>> %s::text[])::double precision"
        sql = f"CASE WHEN jsonb_typeof({column} #> %s::text[]) = 'number' THEN {value} END"
        return sql, [*bound, path, *bound, path]


class ManifestText(Func):
    """The scalar at a path of the manifest as text (true, false, numbers as written), else null."""

    output_field = TextField()

    def __init__(self, path: Path) -> None:
        super().__init__(F("manifest"))
        self.path = path

    def as_sqlite(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:  # noqa: ARG002
        column, bound = compiler.compile(self.source_expressions[0])
        path = sqlite_path(self.path)
        sql = (
            f"CASE json_type({column}, %s) WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'object' THEN NULL "
            f"WHEN 'array' THEN NULL ELSE CAST(json_extract({column}, %s) AS TEXT) END"
        )
        return sql, [*bound, path, *bound, path]

    def as_postgresql(self, compiler: Any, connection: Any, **_: Any) -> tuple[str, Any]:  # noqa: ARG002
        column, bound = compiler.compile(self.source_expressions[0])
        path = list(self.path)
        plain = "('string', 'number', 'boolean')"
        sql = f"CASE WHEN jsonb_typeof({column} #> %s::text[]) IN {plain} THEN {column} #>> %s::text[] END"
        return sql, [*bound, path, *bound, path]


@dataclass(frozen=True)
class Condition:
    path: Path
    operator: str
    value: str


def conditions_read(query: Iterable[tuple[str, str]]) -> list[Condition]:
    """The query parameters that are conditions. Raises Problem that names the parameter."""
    pairs = [(name, value) for name, value in query if name.partition(".")[0] in ROOTS and "." in name]
    conditions = [_condition(name, value) for name, value in pairs]
    if len(conditions) > MAX_CONDITIONS:
        raise ValueError(f"expected at most {MAX_CONDITIONS} conditions on the manifest, got {len(conditions)}")
    return conditions


def adaptors_filter(adaptors: QuerySet[Adaptor], conditions: Iterable[Condition]) -> QuerySet[Adaptor]:
    for index, condition in enumerate(conditions):
        number, text = f"number_{index}", f"text_{index}"
        adaptors = adaptors.alias(**{number: ManifestNumber(condition.path), text: ManifestText(condition.path)})
        adaptors = adaptors.filter(_q(condition, number, text))
    return adaptors


def adaptors_sort(adaptors: QuerySet[Adaptor], sort: str) -> tuple[QuerySet[Adaptor], tuple[str, ...]]:
    """The rows with their sort columns, and the ordering for a cursor; rows without the value come last."""
    name, down = sort.removeprefix("-"), sort.startswith("-")
    if name in COLUMNS:
        return adaptors, tuple(dict.fromkeys((sort, "-created", "-id")))
    if "." not in name:
        raise _wrong("sort", f"expected {', '.join(COLUMNS)} or a path as metrics.loss, got {name!r:.100}")
    path, sign = _path("sort", name), "-" if down else ""
    missing = Value(-FAR if down else FAR, output_field=FloatField())
    adaptors = adaptors.alias(sort_number=ManifestNumber(path), sort_word=ManifestText(path))
    is_number, is_text = Q(sort_number__isnull=False), Q(sort_number__isnull=True, sort_word__isnull=False)
    rows = adaptors.annotate(
        sort_value=Coalesce("sort_number", missing),
        sort_last=Case(When(is_number | is_text, then=0), default=1),
        sort_text=Case(When(is_text, then="sort_word"), default=Value(""), output_field=TextField()),
    )
    return rows, (f"{sign}sort_value", "sort_last", f"{sign}sort_text", "-created", "-id")


def sqlite_path(path: Path) -> str:
    """KEY allows no quotes in keys."""
    return "$" + "".join(f'."{key}"' for key in path)


def _condition(name: str, value: str) -> Condition:
    path, mark, operator = name.rpartition("__")
    if not mark or operator not in OPERATORS:
        path, operator = name, ""
    if operator in ORDERED and _number(value) is None:
        raise _wrong(name, f"expected a number, got {value!r:.100}")
    if operator == "exists" and value not in ("true", "false"):
        raise _wrong(name, f"expected true or false, got {value!r:.100}")
    return Condition(_path(name, path), operator, value)


def _path(name: str, text: str) -> Path:
    root, *keys = text.split(".")
    if root not in ROOTS or not keys or len(keys) > MAX_DEPTH or not all(KEY.fullmatch(key) for key in keys):
        raise _wrong(name, f"expected manifest., params. or metrics. and at most {MAX_DEPTH} keys, got {text!r:.100}")
    return (*ROOTS[root], *keys)


def _q(condition: Condition, number: str, text: str) -> Q:
    match condition.operator:
        case "":
            return _equal(condition.value, number, text)
        case "ne":
            return Q(**{f"{text}__isnull": False}) & _differs(condition.value, number, text)
        case "in":
            values = condition.value.split(",")[:MAX_VALUES]
            return Q(*(_equal(value, number, text) for value in values), _connector=Q.OR)
        case "contains":
            return Q(**{f"{text}__icontains": condition.value})
        case "exists":
            return Q(**{f"{text}__isnull": condition.value == "false"})
        case _:
            return Q(**{f"{number}__{condition.operator}": _number(condition.value)})


def _equal(value: str, number: str, text: str) -> Q:
    """8 matches the number 8, also written as 8.0, and the text 8."""
    as_number = _number(value)
    return Q(**{text: value}) | (Q(**{number: as_number}) if as_number is not None else Q(pk__in=()))


def _differs(value: str, number: str, text: str) -> Q:
    """Explicit, since in SQL NOT of NULL is NULL."""
    as_number = _number(value)
    other = Q() if as_number is None else Q(**{f"{number}__isnull": True}) | ~Q(**{number: as_number})
    return ~Q(**{text: value}) & other


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _wrong(name: str, message: str) -> Problem:
    fields: Mapping[str, list[str]] = {name[:100]: [message]}
    return Problem("invalid", f"{name[:100]}: {message}.", hint="docs/rest.md has the grammar.", fields={**fields})
