"""The records of the job state machine in the panel: read-only, changed by the services behind the buttons."""

from typing import Any

from django.contrib import admin
from django.contrib.admin import display
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from api.audit.models import Audit
from api.jobs.models import Artifact, Attempt, Event, Job, LogChunk, Metric, Worker
from api.jobs.services.budgets import worker_release
from api.jobs.services.control import job_cancel, job_pause, job_resume
from api.jobs.services.workers import worker_drain, worker_drain_undo
from api.jobs.states import LIVE, State, Stop
from api.panel.actions import PanelAction, panel_actions
from api.panel.readonly import (
    ReadOnly,
    ReadOnlyRows,
    link_to,
    outcome_label,
    reason_label,
    record_link,
    state_label,
    worker_label,
)


def may_cancel(job: Job) -> bool:
    return job.state in (*LIVE, State.QUEUED, State.PAUSED) and job.stop_requested != Stop.CANCEL


def may_pause(job: Job) -> bool:
    return job.state in (*LIVE, State.QUEUED) and job.stop_requested not in (Stop.CANCEL, Stop.PAUSE)


def may_requeue(job: Job) -> bool:
    return job.state in (State.PAUSED, State.CANCELLED, State.FAILED) or bool(
        job.state == State.QUEUED and job.not_before
    )


def cancel(job: Job, by: str) -> str:
    job = job_cancel(job_id=job.pk, by=by)
    return f"{job.name} is asked to stop." if job.stopping else f"{job.name} is {job.state}."


def pause(job: Job, by: str) -> str:
    job = job_pause(job_id=job.pk, by=by)
    return f"{job.name} is asked to stop with a checkpoint." if job.stopping else f"{job.name} is {job.state}."


def requeue(job: Job, by: str) -> str:
    return f"{job_resume(job_id=job.pk, by=by).name} is queued."


def drain(worker: Worker, by: str) -> str:
    host = worker_drain(worker_id=worker.pk, by=by).host
    return f"{host} takes nothing new; what it runs goes back to the queue."


def undrain(worker: Worker, by: str) -> str:
    return f"{worker_drain_undo(worker_id=worker.pk, by=by).host} gets jobs again."


def release(worker: Worker, by: str) -> str:
    return f"{worker_release(worker_id=worker.pk, by=by).host} gets jobs again."


CANCEL = PanelAction(
    "cancel",
    "Cancel",
    "The jobs end for good; what runs is asked to stop with a partial adaptor.",
    cancel,
    "cancel",
    fits=may_cancel,
)
PAUSE = PanelAction(
    "pause",
    "Pause",
    "The jobs stop with a checkpoint and wait to be queued again.",
    pause,
    "pause",
    destructive=False,
    fits=may_pause,
)
REQUEUE = PanelAction(
    "requeue",
    "Requeue",
    "The jobs go back to the queue and go on from their last checkpoint.",
    requeue,
    "replay",
    destructive=False,
    fits=may_requeue,
)
RELEASE = PanelAction(
    "release",
    "Release",
    "The workers leave their quarantine and get jobs again.",
    release,
    "healing",
    destructive=False,
    fits=lambda worker: worker.quarantined_at is not None,
)
DRAIN = PanelAction(
    "drain",
    "Drain",
    "The workers take nothing new until they are started again; their attempts stop with a checkpoint.",
    drain,
    "power_settings_new",
    fits=lambda worker: not worker.draining,
)
UNDRAIN = PanelAction(
    "undrain",
    "End the drain",
    "The workers get jobs again.",
    undrain,
    "power",
    destructive=False,
    fits=lambda worker: worker.draining,
)


ATTEMPT_COLUMNS = (
    "fence",
    link_to("worker"),
    outcome_label,
    reason_label,
    "last_step",
    "started_at",
    "ended_at",
)


class AttemptRows(ReadOnlyRows):
    model = Attempt
    fields = readonly_fields = ("n", *ATTEMPT_COLUMNS)
    show_change_link = True
    ordering = ("-n",)

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).select_related("worker")


@admin.register(Job)
@panel_actions(CANCEL, PAUSE, REQUEUE)
class JobAdmin(ReadOnly):
    list_display = (
        "name",
        link_to("project"),
        "method",
        state_label,
        reason_label,
        "progress_shown",
        "pool",
        "priority",
        "actor",
        "created",
    )
    list_filter = ("state", "method", "pool", "project")
    list_select_related = ("project",)
    search_fields = ("name", "actor")
    ordering = ("-created",)
    inlines = (AttemptRows,)

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).select_related("project", "reserved_worker", "checkpoint")

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        return ["see", *super().get_fields(request, obj)]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return self.get_fields(request, obj)

    @display(description="step")
    def progress_shown(self, job: Job) -> str:
        progress = job.progress or {}
        has_total = "step" in progress and "total" in progress
        return f"{progress['step']} of {progress['total']}" if has_total else "-"

    @display(description="see")
    def see(self, job: Job) -> SafeString:
        """Links to other records of this job."""
        audit = reverse("admin:audit_audit_changelist")
        lists = [(name, reverse(f"admin:jobs_{name}_changelist") + f"?job__id__exact={job.pk}") for name in JOB_LISTS]
        links = [*lists, ("audit", f"{audit}?object__exact=job:{job.pk}")]
        return format_html_join(
            " · ", '<a class="text-primary-600 underline dark:text-primary-500" href="{1}">{0}</a>', links
        )


JOB_LISTS = ("event", "artifact")


@admin.register(Attempt)
class AttemptAdmin(ReadOnly):
    list_display = ("n", link_to("job"), *ATTEMPT_COLUMNS, "lease_expires_at")
    list_filter = ("outcome", "started_at")
    list_select_related = ("job", "worker")
    search_fields = ("job__name", "worker__host")
    ordering = ("-started_at",)


@admin.register(Worker)
@panel_actions(DRAIN, UNDRAIN, RELEASE)
class WorkerAdmin(ReadOnly):
    list_display = ("host", worker_label, "pools_shown", "slots", "free_slots", "cards", "last_seen", "id")
    list_filter = ("draining", "gone")
    search_fields = ("host",)
    ordering = ("gone", "-last_seen")

    @display(description="pools")
    def pools_shown(self, worker: Worker) -> str:
        return ", ".join(worker.pools)

    @display(description="accelerators")
    def cards(self, worker: Worker) -> str:
        names = sorted({str(card.get("name", "")) for card in worker.accelerators})
        return f"{len(worker.accelerators)} ({', '.join(names)})" if worker.accelerators else "none"


@admin.register(Artifact)
class ArtifactAdmin(ReadOnly):
    list_display = ("path", "kind", link_to("job"), link_to("attempt"), "step", "size_bytes", "created")
    list_filter = ("kind", "created")
    list_select_related = ("job", "attempt")
    search_fields = ("path", "job__name")


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ("seq", link_to("job"), "kind", link_to("attempt"), "time")
    list_filter = ("kind", "time")
    list_select_related = ("job", "attempt")
    search_fields = ("job__name", "kind")


@admin.register(Metric)
class MetricAdmin(ReadOnly):
    list_display = ("name", "step", "value", link_to("attempt"), link_to("attempt__job"))
    list_select_related = ("attempt__job",)
    search_fields = ("name", "attempt__job__name")


@admin.register(LogChunk)
class LogChunkAdmin(ReadOnly):
    """Only the part that is not yet moved into the storage."""

    list_display = ("start", link_to("attempt"), link_to("attempt__job"))
    list_select_related = ("attempt__job",)
    search_fields = ("attempt__job__name",)

    def get_fields(self, request: Any, obj: Any = None) -> Any:
        return [*super().get_fields(request, obj), "text"]

    def get_readonly_fields(self, request: Any, obj: Any = None) -> Any:
        return self.get_fields(request, obj)

    @display(description="text")
    def text(self, chunk: LogChunk) -> SafeString:
        text = bytes(chunk.bytes).decode("utf-8", "replace")
        return format_html('<pre class="font-mono text-xs whitespace-pre-wrap">{}</pre>', text)


@admin.register(Audit)
class AuditAdmin(ReadOnly):
    list_display = ("at", "actor", "kind", "object_shown")
    list_filter = ("kind", "at")
    search_fields = ("object", "actor", "kind")

    @display(description="object", ordering="object")
    def object_shown(self, row: Audit) -> str:
        """Jobs and workers as links to their pages, even if the record no longer exists."""
        kind, _, key = row.object.partition(":")
        kinds: dict[str, type[Job | Worker]] = {"job": Job, "worker": Worker}
        return record_link(kinds[kind](pk=key), row.object) if kind in kinds and key else row.object
