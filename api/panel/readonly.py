"""Base of the panel: read-only records (only services change state) and the columns that they share."""

import json
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import messages
from django.contrib.admin import display
from django.db.models import Field, ForeignKey, JSONField, Model, QuerySet, TextField, UUIDField
from django.http import HttpRequest
from django.template.loader import render_to_string
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import ModelAdmin as UnfoldAdmin
from unfold.admin import TabularInline as UnfoldInline

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


if TYPE_CHECKING:
    from django.contrib import admin

    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = UnfoldAdmin, UnfoldInline

MAX_COLUMNS = 7


class ReadOnly(ModelAdmin):
    """Shows every field except secrets; defaults come from the model."""

    list_per_page = 50
    show_full_result_count = False
    list_fullwidth = True
    ordering: ClassVar[Any] = ("-pk",)

    @cached_property
    def _shown(self) -> list[str | Column]:
        return fields_shown(self.model)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:  # noqa: ARG002 Django's hooks
        return self._shown

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:  # noqa: ARG002
        return self._shown

    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_act_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        """The buttons need Django's permission to change such rows."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A complete id is looked up as a UUID: databases store UUIDs differently."""
        try:
            record_id = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(pk=record_id), False

    def refuse(self, request: HttpRequest, message: str) -> None:
        self.message_user(request, message, level=messages.ERROR)


class Plain(ReadOnly):
    """For a model without an admin of its own: its first columns, searchable by its names."""

    def get_list_display(self, request: HttpRequest) -> Any:  # noqa: ARG002
        return self._columns

    def get_list_select_related(self, request: HttpRequest) -> Any:  # noqa: ARG002
        return [field.name for field in self.opts.concrete_fields if isinstance(field, ForeignKey)]

    def get_search_fields(self, request: HttpRequest) -> Any:  # noqa: ARG002
        return [field.name for field in self.opts.concrete_fields if field.name in ("name", "kind", "path", "key")]

    @cached_property
    def _columns(self) -> list[str | Column]:
        fields = [field for field in self.opts.concrete_fields if not is_secret(self.model, field)]
        fields = [field for field in fields if not isinstance(field, JSONField | TextField | UUIDField)]
        fields = [field for field in fields if field.get_internal_type() != "BinaryField"]
        columns = [link_to(field.name) if isinstance(field, ForeignKey) else field.name for field in fields]
        return columns[:MAX_COLUMNS] or ["__str__"]


class ReadOnlyRows(TabularInline):
    """Read-only rows on a record's page."""

    fields: ClassVar[Any] = None
    readonly_fields: ClassVar[Any] = ()
    extra = 0
    can_delete = False

    def has_add_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002 Django's hooks
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        return False
