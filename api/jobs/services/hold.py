"""What a restored copy does first: it starts nothing that the original may still run."""

from django.db import transaction

from api.audit.clock import now
from api.jobs.models import LIVE, Attempt, Job, Outcome, State, Stop
from api.jobs.services.control import job_pause
from api.jobs.services.ending import attempt_end
from api.jobs.transitions import job_lock
from trainers.contract.errors import ReasonCode, reason

ACTOR = "hold"


def jobs_hold() -> int:
    """Pauses every queued and live job; how many. Each goes on from its last checkpoint when a person resumes it."""
    job_ids = Job.objects.filter(state__in=(*LIVE, State.QUEUED)).values_list("pk", flat=True)
    return sum(_hold(job_id) for job_id in list(job_ids))


@transaction.atomic
def _hold(job_id: object) -> bool:
    job = job_lock(job_id)
    if job.state == State.QUEUED:
        job_pause(job_id=job_id, by=ACTOR)
        return True
    attempt = Attempt.objects.filter(job=job, ended_at=None).first()
    if job.state not in LIVE or attempt is None:
        return False
    job.stop_requested = Stop.PAUSE
    job.save(update_fields=["stop_requested"])
    lost = reason(ReasonCode.WORKER_LOST, "The platform was restored from a backup.")
    attempt_end(job=job, attempt=attempt, outcome=Outcome.LOST, reason=lost, by=ACTOR, at=now())
    return True
