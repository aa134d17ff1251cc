"""Which worker can take a job, and with which of its accelerators."""

import json
from collections.abc import Iterable

from api.jobs.models import AcceleratorLease, Attempt, AvoidedWorker, Job, Worker
from api.jobs.selectors import workers_live
from trainers.contract.spec import Resources


def needs_text(resources: Resources) -> str:
    """`Job.needs`: the requested number, or the requested indices in ascending order."""
    requested = resources.accelerators
    return json.dumps(requested if isinstance(requested, int) else sorted(requested))


def accelerators_default(pool: str) -> int:
    """How many a job gets that requests none: one if a live worker of the pool has any."""
    return 1 if any(worker.accelerators for worker in workers_live(pool)) else 0


def accelerators_free(worker: Worker, offered: list[int]) -> list[int]:
    """Of the indices that the worker offers, those that exist and that no attempt holds."""
    leased = set(AcceleratorLease.objects.filter(worker=worker).values_list("index", flat=True))
    return [index for index in sorted(set(offered)) if index in worker.indices and index not in leased]


def accelerators_for(needs: str, free: list[int]) -> list[int] | None:
    """The indices out of `free` that a job with these needs gets, or None if it does not fit."""
    requested = json.loads(needs)
    if isinstance(requested, int):
        return free[:requested] if requested <= len(free) else None
    return list(requested) if set(requested) <= set(free) else None


def accelerators_hold(*, attempt: Attempt, job: Job) -> None:
    """Leases each accelerator; the unique constraint refuses a second holder."""
    assert len(attempt.accelerators) == job.accelerators, f"{attempt.accelerators} for {job.accelerators}"
    AcceleratorLease.objects.bulk_create(
        AcceleratorLease(worker_id=attempt.worker_id, index=index, attempt=attempt) for index in attempt.accelerators
    )


def worker_could_hold(worker: Worker, job: Job) -> bool:
    """Whether the job fits an idle worker: its accelerators, and the free disk space that it last reported."""
    has_room = worker.room_bytes is None or job.input_bytes <= worker.room_bytes
    return has_room and accelerators_for(job.needs, worker.indices) is not None


def workers_instead(job: Job, workers: Iterable[Worker]) -> list[Worker]:
    """Of live workers of the job's pool, those that could take the job and that it does not avoid."""
    avoided = set(AvoidedWorker.objects.filter(job=job).values_list("worker", flat=True))
    return [worker for worker in workers if worker.pk not in avoided and worker_could_hold(worker, job)]
