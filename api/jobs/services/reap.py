"""Ends attempts whose worker fell silent. Any number of reapers may run at once."""

from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import F

from api.audit.clock import now
from api.audit.services import audit_add
from api.environment import environment
from api.jobs.models import Attempt, Outcome, ReaperPass, Worker
from api.jobs.services.ending import attempt_end
from api.jobs.transitions import job_lock
from trainers.contract.errors import ReasonCode, reason


def attempts_reap() -> int:
    """How many attempts ended as lost. A gap since the last pass first extends all live leases by itself."""
    at = _pass()
    deadline = at - timedelta(seconds=environment().reap_grace_seconds)
    silent = Attempt.objects.filter(ended_at=None, lease_expires_at__lt=deadline).values_list("pk", flat=True)
    return sum(_reap(attempt_id, deadline, at) for attempt_id in list(silent))


@transaction.atomic
def _pass() -> datetime:
    """The time of this pass. While no reaper ran, perhaps nobody could renew either: restarts, suspend, a step of the
    clock. The clock is read under the row's lock: a reaper that waited for it would take its old time for the newest.
    """
    last, created = ReaperPass.objects.select_for_update().get_or_create(pk=1, defaults={"at": now()})
    at = now()
    gap = at - last.at
    if not created and gap > timedelta(seconds=environment().reap_gap_seconds):
        later = {"lease_expires_at": F("lease_expires_at") + gap, "progress_at": F("progress_at") + gap}
        extended = Attempt.objects.filter(ended_at=None).update(**later)
        told = {"gap_seconds": gap.total_seconds(), "attempts": extended}
        audit_add(actor="reaper", kind="leases_extended", object="reaper", at=at, data=told)
    _clock_went_back(at)
    last.at = at
    last.save(update_fields=["at"])
    return at


def _clock_went_back(at: datetime) -> None:
    """No lease reaches further than one from now, and nobody was seen in the future."""
    longest = at + timedelta(seconds=environment().lease_seconds)
    Attempt.objects.filter(ended_at=None, lease_expires_at__gt=longest).update(lease_expires_at=longest)
    Worker.objects.filter(last_seen__gt=at).update(last_seen=at)


@transaction.atomic
def _reap(attempt_id: Any, deadline: datetime, at: datetime) -> bool:
    """`deadline` is the pass's own: a reaper that was suspended since reaps nothing by the time that it lost."""
    job = job_lock(Attempt.objects.values_list("job", flat=True).get(pk=attempt_id))
    attempt = Attempt.objects.select_for_update().filter(pk=attempt_id, ended_at=None).first()
    if attempt is None or attempt.lease_expires_at >= deadline:
        return False
    ran_out = f"{attempt.lease_expires_at:%H:%M:%S}"
    said = f"Worker {attempt.worker.host} fell silent; its lease ran out at {ran_out} UTC."
    lost = reason(ReasonCode.WORKER_LOST, said)
    return attempt_end(job=job, attempt=attempt, outcome=Outcome.LOST, reason=lost, by="reaper", at=at)
