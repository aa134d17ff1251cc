"""Rows to look at in Django's admin. Nothing is changed there: state moves through the services only."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.http import HttpRequest

from api.jobs.models import Artifact, Attempt, Audit, Event, Job, Worker

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin  # generic in the stubs alone


class ReadOnly(ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:  # noqa: ARG002 Django's hooks
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002
        return False


@admin.register(Job)
class JobAdmin(ReadOnly):
    list_display = ("name", "method", "state", "pool", "priority", "fence", "created")
    list_filter = ("state", "method", "pool")
    search_fields = ("name", "id")


@admin.register(Attempt)
class AttemptAdmin(ReadOnly):
    list_display = ("job", "n", "fence", "worker", "outcome", "started_at", "ended_at", "lease_expires_at")
    list_filter = ("outcome",)
    list_select_related = ("job", "worker")
    exclude = ("token_hash",)


@admin.register(Worker)
class WorkerAdmin(ReadOnly):
    list_display = ("host", "id", "slots", "free_slots", "last_seen", "draining", "gone")


@admin.register(Artifact)
class ArtifactAdmin(ReadOnly):
    list_display = ("kind", "path", "step", "size_bytes", "created")
    list_filter = ("kind",)


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ("job", "seq", "kind", "time")
    list_filter = ("kind",)
    list_select_related = ("job",)


@admin.register(Audit)
class AuditAdmin(ReadOnly):
    list_display = ("at", "actor", "kind", "object")
    list_filter = ("kind",)
    search_fields = ("object", "actor")
