"""Why a queued job has not started, in a sentence."""

from typing import Any

from api.audit.clock import now
from api.environment import environment
from api.jobs.models import Job, State, Worker
from api.jobs.selectors import FAR, draining, quarantined, queue_state
from api.jobs.services.accelerators import accelerators_for
from api.jobs.services.budgets import worker_could_hold


def waiting_sentences(jobs: list[Job]) -> dict[Any, str]:
    """By job id; only queued jobs have one. One query for the workers and one for each pool."""
    queued = [job for job in jobs if job.state == State.QUEUED]
    if not queued:
        return {}
    state, at = queue_state({job.pool for job in queued}), now()
    leaving = draining()
    sick = {pool: quarantined(pool) for pool in {job.pool for job in queued}}
    return {
        job.pk: _pause(job)
        if job.not_before and job.not_before > at
        else _sentence(
            job, [w for w in state["workers"] if job.pool in w.pools], state["ahead"].get(job.pk, FAR), sick[job.pool]
        )
        + _draining([worker.host for worker in leaving if job.pool in worker.pools])
        for job in queued
    }


def _draining(hosts: list[str]) -> str:
    if not hosts:
        return ""
    verb = "is" if len(hosts) == 1 else "are"
    return f" {', '.join(hosts)} {verb} draining and {verb} given no jobs; `anneal worker drain --undo` ends that."


def _pause(job: Job) -> str:
    """Such as: Waits until 2026-01-31 12:03:00 UTC: The storage refused to take or give a file (try 2 of 6)."""
    until = f"Waits until {job.not_before:%Y-%m-%d %H:%M:%S} UTC"
    if not job.reason:
        return f"{until}, when the worker of its last attempt, which was not waited for, has surely stopped."
    return f"{until}: {job.reason['message'].rstrip('.')} (try {job.failed_tries + 1} of {environment().max_tries})."


def _sentence(job: Job, workers: list[Worker], ahead: int, sick: list[str]) -> str:
    if not workers:
        if sick:
            return (
                f"No worker serves the pool {job.pool!r}: {', '.join(sick)} in quarantine; "
                "mend what they name, then `anneal worker release`."
            )
        return f"No worker serves the pool {job.pool!r} at the moment; start one, or queue the job to another pool."
    able = [worker for worker in workers if accelerators_for(job.needs, worker.indices) is not None]
    if not able:
        wanted = job.spec["resources"]["accelerators"]
        needs = _accelerators(wanted) if isinstance(wanted, int) else f"the accelerators {wanted}"
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
