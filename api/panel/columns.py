"""Columns and fields of the panel's records: links between them, indented JSON, coloured states."""

import json
from collections.abc import Callable
from typing import Any

from django.contrib.admin import display
from django.db.models import Field, ForeignKey, JSONField, Model
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from api.environment import environment
from api.jobs.models import Worker
from api.jobs.selectors import LIVE_HEARTBEATS
from api.jobs.states import Outcome, State

Column = Callable[[Any], Any]

SECRET_WORDS = ("hash", "sha256", "cipher", "password", "secret", "token_hash")
"""A field whose name contains one of them is never shown, unless it is the digest of a file."""
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


def label(text: str, colour: str) -> SafeString:
    """A coloured word: success, danger, warning, info or primary."""
    return SafeString(render_to_string("unfold/helpers/label.html", {"text": text, "type": colour}))


@display(description="state", ordering="state")
def state_label(row: Any) -> str:
    return label(row.state, STATE_COLOURS.get(row.state, ""))


@display(description="outcome", ordering="outcome")
def outcome_label(row: Any) -> str:
    return label(row.outcome or "live", OUTCOME_COLOURS.get(row.outcome, "primary"))


@display(description="reason")
def reason_label(row: Any) -> str:
    return label(row.reason["code"], REASON_COLOURS.get(row.reason["code"], "danger")) if row.reason else "-"


@display(description="reason")
def reason_detail(row: Any) -> str:
    """On the record's page: the code, the message, the hint and the detail."""
    return format_html("{}{}", reason_label(row), json_of("reason")(row)) if row.reason else "-"


@display(description="state", ordering="last_seen")
def worker_label(worker: Worker) -> str:
    """Uses this process's clock, so that the column costs no query."""
    if worker.gone:
        return label("gone", "")
    if worker.quarantined_at:
        return label(f"quarantine: {worker.quarantine['code'] if worker.quarantine else '?'}", "danger")
    if (timezone.now() - worker.last_seen).total_seconds() > LIVE_HEARTBEATS * environment().heartbeat_seconds:
        return label("silent", "danger")
    return label("draining", "warning") if worker.draining else label("takes jobs", "success")


COLOURED = {"state": state_label, "outcome": outcome_label, "reason": reason_detail}


def fields_shown(model: type[Model]) -> list[str | Column]:
    """All columns of the table except secrets: references as links, JSON indented, others unchanged."""
    fields = (field for field in model._meta.concrete_fields if not is_secret(model, field))
    return [_field_shown(field) for field in fields if field.get_internal_type() != "BinaryField"]


def is_secret(model: type[Model], field: "Field[Any, Any]") -> bool:
    if field.name in FILE_DIGESTS and model._meta.model_name in ("artifact",):
        return False
    return any(word in field.name for word in SECRET_WORDS)


def _field_shown(field: "Field[Any, Any]") -> str | Column:
    if field.name in COLOURED:
        return COLOURED[field.name]
    if isinstance(field, ForeignKey):
        return link_to(field.name)
    if isinstance(field, JSONField):
        return json_of(field.name)
    return field.name
