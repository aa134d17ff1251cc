"""Columns and fields of the panel's records: links between them, JSON that can be read, coloured states."""

import json
from collections.abc import Callable
from typing import Any

from django.db.models import Field, ForeignKey, JSONField, Model
from django.urls import NoReverseMatch, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.decorators import display

from api.jobs.models import Outcome, State

Column = Callable[[Any], Any]

SECRET_WORDS = ("hash", "sha256", "cipher", "password", "secret", "token_hash")
"""A field whose name holds one of them is shown nowhere, unless it is the digest of a file."""
FILE_DIGESTS = ("sha256",)
STATE_COLOURS = {
    State.QUEUED.value: "info",
    State.CLAIMED.value: "primary",
    State.RUNNING.value: "primary",
    State.SUCCEEDED.value: "success",
    State.FAILED.value: "danger",
    State.CANCELLED.value: "warning",
    State.PAUSED.value: "warning",
}
OUTCOME_COLOURS = {
    Outcome.SUCCEEDED.value: "success",
    Outcome.FAILED.value: "danger",
    Outcome.STOPPED.value: "warning",
    Outcome.LOST.value: "danger",
    Outcome.PREEMPTED.value: "warning",
}
REASON_COLOURS = {
    "cancelled": "warning",
    "paused": "warning",
    "drained": "warning",
    "preempted": "warning",
    "worker_lost": "warning",
}
"""Every other reason is a failure."""


def record_link(record: Model | None, name: str = "") -> str | SafeString:
    """The record by its name, as a link to its page where it has one."""
    if record is None:
        return "-"
    try:
        url = reverse(f"admin:{record._meta.app_label}_{record._meta.model_name}_change", args=[record.pk])
    except NoReverseMatch:
        return name or str(record)
    return format_html('<a class="text-primary-600 dark:text-primary-500" href="{}">{}</a>', url, name or str(record))


def link_to(path: str, title: str = "") -> Column:
    """A column with the record at `path`, as in `attempt` or `attempt__job`; name it in `list_select_related`."""

    @display(description=title or path.rpartition("__")[2].replace("_", " "), ordering=path)
    def link(row: Any) -> str:
        for part in path.split("__"):
            row = getattr(row, part, None)
        return record_link(row)

    return link


def json_of(name: str) -> Column:
    """A field with the JSON of `name`, indented."""

    @display(description=name.replace("_", " "))
    def shown(row: Any) -> SafeString:
        text = json.dumps(getattr(row, name), indent=2, ensure_ascii=False, default=str)
        return format_html('<pre class="font-mono text-xs whitespace-pre-wrap break-words max-w-4xl">{}</pre>', text)

    return shown


@display(description="state", ordering="state", label=STATE_COLOURS)
def state_label(row: Any) -> str:
    return str(row.state)


@display(description="outcome", ordering="outcome", label=OUTCOME_COLOURS)
def outcome_label(row: Any) -> str:
    return str(row.outcome) or "live"


def reason_code(row: Any) -> str:
    return str(row.reason["code"]) if row.reason else ""


class _Reasons(dict[str, str]):
    def __missing__(self, code: str) -> str:
        return "danger"

    def __contains__(self, code: object) -> bool:
        return bool(code)


@display(description="reason", label=_Reasons(REASON_COLOURS))
def reason_label(row: Any) -> str:
    return reason_code(row) or "-"


def fields_shown(model: type[Model]) -> list[str | Column]:
    """All columns of the table but its secrets: references as links, JSON indented, the rest as it is."""
    found = (field for field in model._meta.concrete_fields if not is_secret(model, field))
    return [_field_shown(field) for field in found if field.get_internal_type() != "BinaryField"]


def is_secret(model: type[Model], field: "Field[Any, Any]") -> bool:
    if field.name in FILE_DIGESTS and model._meta.model_name in ("artifact",):
        return False
    return any(word in field.name for word in SECRET_WORDS)


def _field_shown(field: "Field[Any, Any]") -> str | Column:
    if isinstance(field, ForeignKey):
        return link_to(field.name)
    if isinstance(field, JSONField):
        return json_of(field.name)
    return field.name
