"""The table of moves against the diagram of the specification, pair by pair, through the real database."""

from datetime import timedelta
from itertools import product

import pytest
from rest_framework.test import APIClient

from api.audit.clock import now
from api.audit.models import Audit
from api.errors import Problem
from api.jobs.models import Event, Job
from api.jobs.states import State
from api.jobs.transitions import job_move
from tests.api.jobs.test_claim import submit
from tests.api.world import World

pytestmark = pytest.mark.django_db

# Written out by hand from the states of a job, never imported: the judge must not be the defendant.
LIVE_ENDS = {"queued", "succeeded", "failed", "cancelled", "paused"}
DIAGRAM = {
    "queued": {"claimed", "cancelled", "paused"},
    "claimed": {"running"} | LIVE_ENDS,
    "running": LIVE_ENDS,
    "paused": {"queued", "cancelled"},
    "cancelled": {"queued"},
    "failed": {"queued"},
    "succeeded": set(),
}
ENDS = LIVE_ENDS - {"queued"}


@pytest.mark.parametrize(("before", "after"), list(product(DIAGRAM, DIAGRAM)))
def test_a_job_moves_only_along_the_diagram(world: World, user: APIClient, before: str, after: str) -> None:
    job_id = submit(user, world)
    earlier = now() - timedelta(days=1)
    Job.objects.filter(pk=job_id).update(state=before, queued_at=earlier, ended=earlier, not_before=earlier)
    events = Event.objects.filter(job=job_id).count()
    job = Job.objects.get(pk=job_id)
    if after in DIAGRAM[before]:
        at = now()
        job_move(job=job, to=State(after), by="test", at=at, event_data={"attempt": 1})
        job = Job.objects.get(pk=job_id)
        assert (job.state, job.ended) == (after, at if after in ENDS else None)
        assert job.queued_at == (at if after == "queued" else earlier)
        event = Event.objects.get(job=job_id, seq=events + 1)
        data = {"state": after, "reason": None, "attempt": 1}
        assert event.data == data | ({"not_before": earlier.isoformat()} if after == "queued" else {})
        assert Audit.objects.filter(actor="test", kind=f"job_{after}", object=f"job:{job_id}", at=at).count() == 1
    else:
        with pytest.raises(Problem) as refusal:
            job_move(job=job, to=State(after), by="test", at=now())
        assert (refusal.value.status, refusal.value.fields) == (409, {"state": [before]})
        assert Job.objects.get(pk=job_id).state == before
        assert Event.objects.filter(job=job_id).count() == events
