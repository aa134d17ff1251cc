"""A live attempt: who may speak for it, and its heartbeat."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from pydantic import Field

from api.audit.clock import now
from api.environment import environment
from api.errors import Problem
from api.jobs.agent.incoming import Incoming
from api.jobs.models import Attempt, Job, State
from api.jobs.transitions import event_add
from foundation.phases import SENTENCES
from trainers.contract.spec import MAX_BIGINT, MAX_INT

ASKED = ("state", "stop_requested", "control_seq", "control_command", "control_obeyed")
"""What a heartbeat reads of the job."""


class Heartbeat(Incoming):
    fence: int = Field(ge=1, le=MAX_INT)
    progress_seq: int = Field(0, ge=0, le=MAX_BIGINT)
    """Seq of the trainer's last event."""
    phase: str = Field("", max_length=100)
    """Before the first step: what the attempt does. One that this API does not know is ignored."""


def attempt_heartbeat(*, attempt_id: Any, heartbeat: Heartbeat) -> dict[str, Any]:
    """Renews the lease, also one that expired unreaped, and says what is asked. Raises Problem(409 fenced)."""
    attempt, answer = _renew(attempt_id, heartbeat)
    is_starting = attempt.job.state == State.CLAIMED
    if is_starting and heartbeat.phase in SENTENCES and heartbeat.phase != attempt.phase:
        _phase_record(attempt_id, heartbeat.phase)
    return answer


@transaction.atomic
def _phase_record(attempt_id: Any, phase: str) -> None:
    """In a transaction of its own: an event needs the job's row locked before the attempt's."""
    job, attempt = live_lock(attempt_id)
    if job.state == State.CLAIMED and attempt.phase != phase:
        Attempt.objects.filter(pk=attempt.pk).update(phase=phase)
        event_add(job=job, kind="phase", data={"phase": phase}, at=now(), attempt=attempt)


@transaction.atomic
def _renew(attempt_id: Any, heartbeat: Heartbeat) -> tuple[Attempt, dict[str, Any]]:
    live = Attempt.objects.filter(pk=attempt_id, fence=heartbeat.fence, ended_at=None)
    locked = live.select_for_update(of=("self",)).select_related("job", "worker")
    attempt = locked.only("phase", "progress_seq", "worker__draining", *(f"job__{name}" for name in ASKED)).first()
    if attempt is None:
        raise Problem("fenced", "This attempt no longer owns its job.", status=409, hint="Kill the process tree.")
    at = now()  # read under the lock: a wait must shorten no lease
    values: dict[str, Any] = {"lease_expires_at": at + timedelta(seconds=environment().lease_seconds)}
    if attempt.progress_seq < heartbeat.progress_seq:
        values |= {"progress_seq": heartbeat.progress_seq, "progress_at": at}
    live.update(**values)
    interval = environment().heartbeat_seconds
    return attempt, {"stop": _stop(attempt), "control": _control(attempt.job), "interval": interval}


def live_lock(
    attempt_id: Any, *, job_fields: Sequence[str] = (), attempt_fields: Sequence[str] = ()
) -> tuple[Job, Attempt]:
    """Job and attempt, locked in this order. Raises Problem(410) for an attempt that ended.

    Fields that are not named are read when they are first asked for; without names all are read at once.
    """
    jobs = Job.objects.only(*job_fields) if job_fields else Job.objects.all()
    attempts = Attempt.objects.only("ended_at", "outcome", *attempt_fields) if attempt_fields else Attempt.objects.all()
    job = jobs.select_for_update(of=("self",)).get(attempts=attempt_id)
    attempt = attempts.select_for_update().get(pk=attempt_id)
    require_live(attempt)
    return job, attempt


def require_live(attempt: Attempt) -> None:
    if attempt.ended_at is not None:
        raise ended_problem(attempt.ended_at, attempt.outcome)


def ended_problem(ended_at: datetime, outcome: str) -> Problem:
    return Problem("attempt_ended", f"The attempt ended as {outcome} at {ended_at:%H:%M:%S} UTC.", status=410)


def _stop(attempt: Attempt) -> str | None:
    return attempt.job.stop_requested or ("drain" if attempt.worker.draining else None)


def _control(job: Job) -> dict[str, Any] | None:
    if not job.control_command or job.control_seq <= job.control_obeyed:
        return None
    return {"seq": job.control_seq, "command": job.control_command}
