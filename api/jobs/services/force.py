"""Ends that do not wait for the worker: a person's forced cancel, and the reaper's for attempts that got stuck.

The end fences the worker: its next heartbeat is refused, so it kills the trainer, and its finish changes nothing more.
Until its lease would have run out it may still compute, so the job starts no sooner anywhere.
"""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from api.audit.clock import now
from api.audit.services import audit_add
from api.environment import environment
from api.jobs.models import LIVE, Attempt, Event, Job, Outcome, Stop
from api.jobs.services.control import job_cancel
from api.jobs.services.ending import attempt_end
from api.jobs.transitions import job_lock
from trainers.contract.errors import ReasonCode, reason


@transaction.atomic
def job_cancel_forced(*, job_id: Any, by: str) -> Job:
    """As `job_cancel`, but a live job is cancelled now, whatever its worker does. What it has not published is lost."""
    job = job_cancel(job_id=job_id, by=by)
    if job.state in LIVE:
        _end_stopped(job, by, now(), "The job was cancelled by force, without waiting for its worker.")
    return job


def stuck_end() -> int:
    """How many attempts ended that no worker ends: a stop that nobody obeys, or life without progress for very long."""
    at = now()
    return sum(_stuck_end(job_id, at) for job_id in Job.objects.filter(state__in=LIVE).values_list("pk", flat=True))


@transaction.atomic
def _stuck_end(job_id: Any, at: datetime) -> bool:
    job = job_lock(job_id)
    attempt = job.attempts.filter(ended_at=None).first()
    if attempt is None:
        return False
    if job.stop_requested:
        requested_at = (
            Event.objects.filter(job=job, kind="stopping").order_by("-seq").values_list("time", flat=True).first()
        )
        limit = timedelta(seconds=environment().stop_grace_seconds + environment().stop_limit_seconds)
        if requested_at is not None and at - requested_at > limit:
            _end_stopped(job, "reaper", at, f"The worker did not obey the {job.stop_requested} in time.")
            return True
    if at - (attempt.progress_at or attempt.started_at) <= timedelta(seconds=environment().stuck_seconds):
        return False
    message = f"The attempt lived for {environment().stuck_seconds / 3600:g} hours without progress."
    stuck = reason(ReasonCode.NO_PROGRESS, message)
    return attempt_end(job=job, attempt=attempt, outcome=Outcome.FAILED, reason=stuck, by="reaper", at=at)


def _end_stopped(job: Job, by: str, at: datetime, message: str) -> None:
    attempt: Attempt = job.attempts.get(ended_at=None)
    code = ReasonCode.CANCELLED if job.stop_requested == Stop.CANCEL else ReasonCode.PAUSED
    data = {"attempt": str(attempt.pk), "worker": str(attempt.worker_id), "message": message}
    audit_add(actor=by, kind="attempt_forced", object=f"job:{job.pk}", project_id=job.project_id, at=at, data=data)
    attempt_end(job=job, attempt=attempt, outcome=Outcome.STOPPED, reason=reason(code, message), by=by, at=at)
