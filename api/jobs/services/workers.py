"""Worker hosts: hello, heartbeat, goodbye, drain."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from pydantic import Field

from api.audit.clock import now
from api.audit.models import audit_add
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Attempt, Worker
from api.jobs.schemas import Incoming
from api.jobs.services.attempt_lifecycle import attempt_end
from api.jobs.services.budgets import worker_lock, worker_release
from api.jobs.states import Outcome
from api.jobs.transitions import job_lock
from foundation import protocol
from foundation.plain_text import PlainLine
from trainers.contract.errors import ReasonCode, reason
from trainers.contract.spec import MAX_BIGINT

Labels = dict[PlainLine, PlainLine]
"""Labels of a worker, set by its operator."""


class Accelerator(Incoming):
    index: int = Field(ge=0, le=1000)
    name: PlainLine = Field("", max_length=200)
    memory_bytes: int = Field(0, ge=0, le=MAX_BIGINT)


class Hello(Incoming):
    worker: UUID
    boot_id: UUID
    host: PlainLine = Field(max_length=200)
    pools: list[PlainLine] = Field(min_length=1, max_length=50)
    slots: int = Field(ge=1, le=1000)
    accelerators: list[Accelerator] = Field([])
    labels: Labels = Field({})
    wall: str = Field("", max_length=20, pattern=r"^[a-z+]*$")
    """What isolates the host's files from trainers; an older worker sends nothing."""
    gone: list[UUID] = Field([])
    """Attempts of earlier boots whose processes are all gone."""
    protocol: int = Field(1, ge=0, le=1_000_000)
    """Version of docs/protocol.md that the worker speaks; workers older than the number send none."""


@transaction.atomic
def worker_hello(*, hello: Hello) -> Worker:
    """Registers the boot. Raises Problem: 409 while an older boot of the id may live, 400 for a worker too old."""
    _require_protocol(hello)
    worker = Worker.objects.select_for_update().filter(pk=hello.worker).first()
    at = now()
    if worker and worker.boot_id != hello.boot_id:
        _refuse_if_alive(worker, at)
    columns: dict[str, Any] = hello.model_dump(mode="json", exclude={"worker", "gone", "protocol"})
    fresh = worker is None or worker.boot_id != hello.boot_id
    columns |= {"last_seen": at, "gone": False, "free_slots": hello.slots} | (FRESH_BOOT if fresh else {})
    worker, _ = Worker.objects.update_or_create(pk=hello.worker, defaults=columns)
    worker.boot_id = hello.boot_id
    for attempt_id in hello.gone:
        _end_gone(attempt_id, worker, at)
    if fresh:
        audit_add(actor=f"worker:{worker.pk}", kind="worker_hello", object=f"worker:{worker.pk}", at=at)
    return worker


@transaction.atomic
def worker_heartbeat(
    *, worker_id: UUID, boot_id: UUID, free_slots: int, room_bytes: int | None = None, self_check: str | None = None
) -> Worker:
    """Records what the host reports. A passed self-check ends a quarantine of the minimum length."""
    worker = worker_touch(worker_id=worker_id, boot_id=boot_id, free_slots=free_slots, room_bytes=room_bytes)
    since = worker.quarantined_at
    if since and self_check == "passed" and worker.last_seen - since >= _min_quarantine():
        return worker_release(worker_id=worker.pk, by=f"worker:{worker.pk} (self-check)")
    return worker


def _min_quarantine() -> timedelta:
    return timedelta(seconds=environment().quarantine_seconds)


@transaction.atomic
def worker_goodbye(*, worker_id: UUID, boot_id: UUID) -> None:
    worker_touch(worker_id=worker_id, boot_id=boot_id, gone=True, free_slots=0)


@transaction.atomic
def worker_drain(*, worker_id: Any, by: str) -> Worker:
    """The worker gets no new jobs, and its live attempts are asked to stop and go back to the queue."""
    worker = worker_lock(worker_id)
    if not worker.draining:
        worker.draining = True
        worker.save(update_fields=["draining"])
        audit_add(actor=by, kind="worker_drain", object=f"worker:{worker.pk}", at=now())
    return worker


@transaction.atomic
def worker_drain_undo(*, worker_id: Any, by: str) -> Worker:
    """The worker gets jobs again, from its next heartbeat on."""
    worker = worker_lock(worker_id)
    if worker.draining:
        worker.draining = False
        worker.save(update_fields=["draining"])
        audit_add(actor=by, kind="worker_drain_undone", object=f"worker:{worker.pk}", at=now())
    return worker


def worker_touch(*, worker_id: UUID, boot_id: UUID, **reported: Any) -> Worker:
    """Locks the worker and updates what it reported; `last_seen` is the time at which the lock was held. Raises Problem
    404 before hello, 409 for another boot."""
    worker = Worker.objects.select_for_update().filter(pk=worker_id).first()
    if worker is None:
        raise Problem("unknown_worker", f"Worker {worker_id} has not said hello.", status=404, hint="Say hello first.")
    if worker.boot_id != boot_id:
        raise Problem("worker_identity_taken", f"Another boot owns worker {worker_id}.", status=409, hint=TAKEN_HINT)
    columns = {"last_seen": now(), "gone": False, **reported}
    for name, value in columns.items():
        setattr(worker, name, value)
    worker.save(update_fields=columns)
    return worker


FRESH_BOOT: dict[str, Any] = {"draining": False, "quarantined_at": None, "quarantine": None, "failed_jobs": []}
"""Columns of a worker that was restarted: its operator has presumably repaired it."""
TAKEN_HINT = "Give each worker host a state folder of its own."


def _require_protocol(hello: Hello) -> None:
    if hello.protocol < protocol.OLDEST_WORKER:
        raise Problem(
            "worker_too_old",
            f"The worker on {hello.host} speaks protocol {hello.protocol}; this API needs {protocol.OLDEST_WORKER} "
            f"or newer and speaks {protocol.PROTOCOL}.",
            hint="Update the worker.",
        )


def _refuse_if_alive(worker: Worker, at: datetime) -> None:
    silent = (at - worker.last_seen).total_seconds()
    if worker.gone or silent >= environment().identity_seconds:
        return
    wait = environment().identity_seconds - silent
    raise Problem(
        "worker_identity_taken",
        f"Worker {worker.pk} was seen {silent:.0f} s ago under another boot; try again in {wait:.0f} s.",
        status=409,
        hint=TAKEN_HINT,
    )


def _end_gone(attempt_id: UUID, worker: Worker, at: datetime) -> None:
    """Ends an attempt of an older boot whose process tree is gone."""
    older = Attempt.objects.filter(pk=attempt_id, worker=worker, ended_at=None).exclude(boot_id=worker.boot_id)
    attempt = older.first()
    if attempt is None:
        return
    job = job_lock(attempt.job_id)
    lost = reason(ReasonCode.WORKER_LOST, "The worker host was restarted.")
    attempt_end(job=job, attempt=attempt, outcome=Outcome.LOST, reason=lost, by=f"worker:{worker.pk}", at=at)
