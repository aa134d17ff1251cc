"""Which worker can take a job, with which of its accelerators, and why a queued job still waits."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from api.audit.clock import now
from api.environment import environment
from api.jobs.models import AcceleratorLease, Attempt, AvoidedWorker, Job, Worker
from api.jobs.selectors import FAR, is_live, places, quarantine_named, workers_live
from api.jobs.states import State
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


def waiting_sentences(jobs: Sequence[Job]) -> dict[Any, str]:
    """By job id; only for queued jobs. One query for the clock, one for the workers and one for each pool."""
    queued = [job for job in jobs if job.state == State.QUEUED]
    if not queued:
        return {}
    at = now()
    workers = list(Worker.objects.filter(gone=False).order_by("host"))
    ahead = places({job.pool for job in queued}, at)
    sentences: dict[Any, str] = {}
    for job in queued:
        if job.not_before and job.not_before > at:
            sentences[job.pk] = _pause(job)
            continue
        serving = [worker for worker in workers if job.pool in worker.pools]
        leaving = [worker.host for worker in serving if worker.draining]
        sentences[job.pk] = _sentence(job, serving, ahead.get(job.pk, FAR), at) + _draining(leaving)
    return sentences


def _draining(hosts: list[str]) -> str:
    if not hosts:
        return ""
    verb = "is" if len(hosts) == 1 else "are"
    return f" {', '.join(hosts)} {verb} draining and {verb} given no jobs; `anneal worker drain --undo` ends that."


def _pause(job: Job) -> str:
    """For example: Waits until 2026-01-31 12:03:00 UTC: The storage refused to take or give a file (try 2 of 6)."""
    until = f"Waits until {job.not_before:%Y-%m-%d %H:%M:%S} UTC"
    if not job.reason:
        return f"{until}, when the worker of its last attempt, which was not waited for, has surely stopped."
    return f"{until}: {job.reason['message'].rstrip('.')} (try {job.failed_tries + 1} of {environment().max_tries})."


def _sentence(job: Job, serving: list[Worker], ahead: int, at: datetime) -> str:
    """`serving`: all workers of the job's pool that are not gone."""
    workers = [worker for worker in serving if is_live(worker, at)]
    if not workers:
        in_quarantine = [quarantine_named(worker) for worker in serving if worker.quarantined_at is not None]
        if in_quarantine:
            return (
                f"No worker serves the pool {job.pool!r}: {', '.join(in_quarantine)} in quarantine; "
                "mend what they name, then `anneal worker release`."
            )
        return f"No worker serves the pool {job.pool!r} at the moment; start one, or queue the job to another pool."
    able = [worker for worker in workers if accelerators_for(job.needs, worker.indices) is not None]
    if not able:
        requested = json.loads(job.needs)  # not from the spec, which lists of jobs do not read
        needs = _accelerators(requested) if isinstance(requested, int) else f"the accelerators {requested}"
        most = max(len(worker.indices) for worker in workers)
        return f"The job needs {needs}; no worker of the pool {job.pool!r} has them (the most is {most})."
    roomy = [worker for worker in able if worker_could_hold(worker, job)]
    if not roomy:
        most = max(worker.room_bytes or 0 for worker in able)
        return (
            f"Its inputs take {job.input_bytes / 1e9:.1f} GB; no worker of the pool {job.pool!r} has so much room "
            f"(the most is {most / 1e9:.1f} GB)."
        )
    queue = _ahead(ahead)
    if not any(worker.free_slots for worker in roomy):
        return f"All workers of the pool {job.pool!r} that could run it are busy.{queue}"
    if job.accelerators:
        return f"It waits for {_accelerators(job.accelerators, 'free ')} on one worker.{queue}"
    return f"A worker takes it in a moment.{queue}"


def _accelerators(count: int, quality: str = "") -> str:
    return f"{count} {quality}accelerator{'' if count == 1 else 's'}"


def _ahead(count: int) -> str:
    if count >= FAR:
        return f" More than {FAR - 1} jobs are ahead of it."
    return f" {count} jobs are ahead of it." if count > 1 else " 1 job is ahead of it." if count else ""
