"""django-unfold's classes as type checkers may see them: it has no type information of its own, Django's admin has."""

from typing import TYPE_CHECKING, Any, ClassVar

from unfold.admin import ModelAdmin as UnfoldAdmin
from unfold.admin import TabularInline as UnfoldInline

if TYPE_CHECKING:
    from django.contrib import admin

    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = UnfoldAdmin, UnfoldInline


class Shown(TabularInline):
    """Rows of a record's page that are only looked at."""

    fields: ClassVar[Any] = None
    readonly_fields: ClassVar[Any] = ()
    extra = 0
    can_delete = False

    def has_add_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002 Django's hooks
        return False

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:  # noqa: ARG002
        return False
