"""What a failure costs: tries of the job, workers that it avoids, and quarantine of the worker.

`trainers.contract.errors` holds the policy of each reason, the settings the number of tries and the pauses.
"""

import random
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from api.audit.clock import now
from api.audit.models import audit_add
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Artifact, Attempt, AvoidedWorker, Job, Worker
from api.jobs.placement import workers_instead
from api.jobs.selectors import workers_live
from api.jobs.states import Outcome
from api.jobs.transitions import event_add, job_audit
from trainers.contract.errors import MEANINGS, WORKER_SIDE, Reason, Retry
from trainers.contract.events import Warning_


def failure_columns(*, job: Job, attempt: Attempt, reason: Reason, at: datetime) -> dict[str, Any] | None:
    """Columns of a job that goes back to the queue after this failure; None if the job fails.

    The caller holds the lock on `job`.
    """
    retry = MEANINGS[reason.code].retry
    if retry == Retry.OLDER_CHECKPOINT:
        return _older_checkpoint(job, attempt, reason, at)
    if retry not in (Retry.LATER, *WORKER_SIDE):
        return None
    tries = job.failed_tries + 1
    Job.objects.filter(pk=job.pk).update(failed_tries=tries)
    if tries >= environment().max_tries:
        return None
    if retry in WORKER_SIDE:
        AvoidedWorker.objects.get_or_create(job=job, worker=attempt.worker, defaults={"code": reason.code})
        if workers_instead(job, workers_live(job.pool)):
            return {"not_before": None}
        if retry == Retry.ONLY_ELSEWHERE:
            return None
    return {"not_before": at + timedelta(seconds=pause_seconds(tries))}


def pause_seconds(tries: int) -> float:
    """The pause after so many failed tries: grows by a factor of 4 up to a limit. Jitter spreads jobs that failed
    together."""
    longest = min(environment().retry_longest_seconds, environment().retry_first_seconds * 4.0 ** min(tries - 1, 50))
    return longest * random.uniform(0.8, 1.0)


def worker_end_record(*, attempt: Attempt, outcome: Outcome, reason: Reason | None, at: datetime) -> None:
    """Counts consecutive worker-side failures of different jobs; an attempt that got further resets the count."""
    worker_side = outcome == Outcome.FAILED and reason is not None and MEANINGS[reason.code].retry in WORKER_SIDE
    got_further = outcome == Outcome.SUCCEEDED or (outcome == Outcome.STOPPED and attempt.last_step)
    if not worker_side and not got_further:
        return
    worker = Worker.objects.select_for_update().get(pk=attempt.worker_id)
    if not worker_side:
        Worker.objects.filter(pk=worker.pk).exclude(failed_jobs=[]).update(failed_jobs=[])
        return
    assert reason is not None
    failed = [*(job for job in worker.failed_jobs if job != str(attempt.job_id)), str(attempt.job_id)]
    Worker.objects.filter(pk=worker.pk).update(failed_jobs=failed[-environment().quarantine_failures :])
    if len(failed) >= environment().quarantine_failures and worker.quarantined_at is None:
        _quarantine(worker, failed, reason, at)


@transaction.atomic
def worker_release(*, worker_id: Any, by: str) -> Worker:
    """Ends the quarantine and resets the count of failures. Raises Problem(404)."""
    worker = worker_lock(worker_id)
    if worker.quarantined_at is not None:
        worker.quarantined_at, worker.quarantine, worker.failed_jobs = None, None, []
        worker.save(update_fields=["quarantined_at", "quarantine", "failed_jobs"])
        audit_add(actor=by, kind="worker_released", object=f"worker:{worker.pk}", at=now())
    return worker


def worker_lock(worker_id: Any) -> Worker:
    """The worker's row, locked. Raises Problem(404)."""
    worker = Worker.objects.select_for_update().filter(pk=worker_id).first()
    if worker is None:
        raise Problem("not_found", f"There is no worker {worker_id}.", status=404)
    return worker


def _quarantine(worker: Worker, failed: list[str], reason: Reason, at: datetime) -> None:
    Worker.objects.filter(pk=worker.pk).update(quarantined_at=at, quarantine=reason.model_dump(mode="json"))
    data = {"reason": reason.code, "message": reason.message, "jobs": failed}
    audit_add(actor="budgets", kind="worker_quarantined", object=f"worker:{worker.pk}", at=at, data=data)


def _older_checkpoint(job: Job, attempt: Attempt, reason: Reason, at: datetime) -> dict[str, Any] | None:
    """Marks the checkpoint of the attempt as damaged and selects the one before it. None if none is left: a start from
    step 0 that nobody requested would lose work silently."""
    damaged = attempt.checkpoint
    if damaged is None:
        return None
    Artifact.objects.filter(pk=damaged.pk).update(damaged=reason.message[:500])
    older = checkpoint_newest(job)
    Job.objects.filter(pk=job.pk).update(checkpoint=older)
    consequence = f"The job goes on from step {older.step}." if older else "No older one is left."
    message = f"The checkpoint of step {damaged.step} cannot be used: {reason.message.rstrip('.')}. {consequence}"
    event_add(job=job, kind="warning", data=Warning_(message=message).model_dump(), at=at, attempt=attempt)
    data = {"artifact": damaged.pk, "step": damaged.step, "message": reason.message, "next": older and older.pk}
    job_audit(job=job, kind="checkpoint_damaged", by="budgets", at=at, data=data)
    return {"not_before": None} if older else None


def checkpoint_newest(job: Job) -> Artifact | None:
    """The newest checkpoint that is not marked as damaged."""
    checkpoints = Artifact.objects.filter(damaged="", job=job, kind=Artifact.Kind.CHECKPOINT)
    return checkpoints.order_by("-pk").first()
