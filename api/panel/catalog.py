"""Datasets, base models, adaptors and templates in the panel: read-only, with links between them."""

from typing import Any, ClassVar

from django.contrib import admin
from django.contrib.admin import display

from api.catalog.models import (
    Adaptor,
    Dataset,
    DatasetVersion,
    PretrainedModel,
    PretrainedModelVersion,
    Template,
    Upload,
)
from api.panel.readonly import ReadOnly, ReadOnlyRows, label, link_to


class Versions(ReadOnlyRows):
    """The versions of a record, on its page."""

    fields = ("version", "digest", "num_files", "size_bytes", "created")
    readonly_fields = fields
    show_change_link = True
    ordering = ("-version",)


class DatasetVersions(Versions):
    model = DatasetVersion


class PretrainedModelVersions(Versions):
    model = PretrainedModelVersion


class NamedAdmin(ReadOnly):
    list_display: Any = ("name", link_to("project"), "created")
    list_filter: ClassVar[Any] = ("project", "created")
    list_select_related = ("project",)
    search_fields = ("name",)
    ordering = ("-created",)


@admin.register(Dataset)
class DatasetAdmin(NamedAdmin):
    inlines = (DatasetVersions,)


@admin.register(PretrainedModel)
class PretrainedModelAdmin(NamedAdmin):
    inlines = (PretrainedModelVersions,)


class VersionAdmin(ReadOnly):
    list_display: Any = (
        "__str__",
        link_to("record"),
        link_to("record__project"),
        "num_files",
        "size_bytes",
        "created",
    )
    list_filter: ClassVar[Any] = ("created",)
    list_select_related = ("record__project",)
    search_fields = ("record__name", "digest")
    ordering = ("-created",)


@admin.register(DatasetVersion)
class DatasetVersionAdmin(VersionAdmin):
    pass


@admin.register(PretrainedModelVersion)
class PretrainedModelVersionAdmin(VersionAdmin):
    list_display = ("__str__", "family", link_to("record"), link_to("record__project"), "size_bytes", "created")
    list_filter = ("family", "created")


@admin.register(Adaptor)
class AdaptorAdmin(ReadOnly):
    list_display = (
        "__str__",
        link_to("project"),
        "method",
        link_to("job"),
        link_to("base_model"),
        "completeness",
        "size_bytes",
        "created",
    )
    list_filter = ("partial", "method", "project")
    list_select_related = ("project", "job", "base_model__record")
    search_fields = ("name", "trigger_word", "digest")
    ordering = ("-created",)

    @display(description="result", ordering="partial")
    def completeness(self, adaptor: Adaptor) -> str:
        return label("partial", "warning") if adaptor.partial else label("complete", "success")


@admin.register(Template)
class TemplateAdmin(NamedAdmin):
    list_display = ("name", link_to("project"), "method", "dataset", "model", "pool", "created")
    list_filter = ("method", "project")


@admin.register(Upload)
class UploadAdmin(ReadOnly):
    list_display = ("id", "kind", link_to("project"), "created")
    list_filter = ("kind", "created")
    list_select_related = ("project",)
    search_fields = ("digest",)
    ordering = ("-created",)
