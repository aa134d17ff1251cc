"""Which accelerators of a worker a job may have."""

import json

from api.jobs.models import AcceleratorLease, Attempt, Job, Worker
from api.jobs.selectors import workers_live
from trainers.contract.spec import Resources


def needs_text(resources: Resources) -> str:
    """`Job.needs`: the wanted number, or the wanted indices in rising order."""
    wanted = resources.accelerators
    return json.dumps(wanted if isinstance(wanted, int) else sorted(wanted))


def accelerators_default(pool: str) -> int:
    """How many a job gets that names none: one, where a live worker of the pool has any."""
    return 1 if any(worker.accelerators for worker in workers_live(pool)) else 0


def accelerators_free(worker: Worker, offered: list[int]) -> list[int]:
    """Of the indices that the worker offers, those that exist and that no attempt holds here."""
    taken = set(AcceleratorLease.objects.filter(worker=worker).values_list("index", flat=True))
    return [index for index in sorted(set(offered)) if index in worker.indices and index not in taken]


def accelerators_for(needs: str, free: list[int]) -> list[int] | None:
    """The indices that a job with these needs gets out of `free`, or None when it does not fit."""
    wanted = json.loads(needs)
    if isinstance(wanted, int):
        return free[:wanted] if wanted <= len(free) else None
    return list(wanted) if set(wanted) <= set(free) else None


def accelerators_hold(*, attempt: Attempt, job: Job) -> None:
    """Takes them one by one; the unique constraint refuses a second holder."""
    assert len(attempt.accelerators) == job.accelerators, f"{attempt.accelerators} for {job.accelerators}"
    AcceleratorLease.objects.bulk_create(
        AcceleratorLease(worker_id=attempt.worker_id, index=index, attempt=attempt) for index in attempt.accelerators
    )
