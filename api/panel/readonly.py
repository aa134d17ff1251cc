"""Records that are looked at: state moves through the services only, so nothing here is added, changed or deleted."""

from functools import cached_property
from typing import Any, ClassVar
from uuid import UUID

from django.contrib import messages
from django.db.models import ForeignKey, JSONField, QuerySet, TextField, UUIDField
from django.http import HttpRequest

from api.panel.bases import ModelAdmin
from api.panel.columns import Column, fields_shown, is_secret, link_to

MAX_COLUMNS = 7


class ReadOnly(ModelAdmin):
    """Shows every field but secrets; what a subclass does not say is made from the model."""

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
        """Who may press the buttons: whoever Django would let change such rows."""
        return request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """A whole id is looked up as such: databases write UUIDs down differently."""
        try:
            wanted = UUID(search_term.strip())
        except ValueError:
            return super().get_search_results(request, queryset, search_term)
        return queryset.filter(pk=wanted), False

    def refuse(self, request: HttpRequest, message: str) -> None:
        self.message_user(request, message, level=messages.ERROR)


class Plain(ReadOnly):
    """For a model that nobody wrote an admin for: its first columns, searchable by its names."""

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
        found = [link_to(field.name) if isinstance(field, ForeignKey) else field.name for field in fields]
        return found[:MAX_COLUMNS] or ["__str__"]
