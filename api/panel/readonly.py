"""Read-only records: only services change state, so nothing is added, changed or deleted here."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.contrib import messages
from django.db.models import ForeignKey, JSONField, QuerySet, TextField, UUIDField
from django.http import HttpRequest
from unfold.admin import ModelAdmin as UnfoldAdmin
from unfold.admin import TabularInline as UnfoldInline

from api.panel.columns import Column, fields_shown, is_secret, link_to

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
