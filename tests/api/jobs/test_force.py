"""Every state has a bound: a forced cancel, a stop that nobody obeys, life without progress."""

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.jobs.models import Attempt, Job
from api.jobs.services.force import stuck_end
from tests.api.host import Agent, Host
from tests.api.jobs.test_claim import submit
from tests.api.world import Clock, World

pytestmark = pytest.mark.django_db


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    agent = host.claim()
    agent.start()
    return agent


def cancel(user: APIClient, job: str, *, force: bool) -> str:
    state: str = user.post(f"/api/v1/jobs/{job}/cancel", {"force": force}, format="json").json()["state"]
    return state


def test_a_forced_cancel_ends_a_live_job_at_once_and_fences_its_worker(agent: Agent, user: APIClient) -> None:
    assert cancel(user, agent.job, force=False) == "running"
    assert cancel(user, agent.job, force=True) == "cancelled"
    assert cancel(user, agent.job, force=True) == "cancelled"
    beat = agent.heartbeat()
    assert (beat.status_code, beat.json()["code"]) in ((409, "fenced"), (410, "attempt_ended"))
    assert agent.finish("failed").json()["code"] == "attempt_ended"
    attempt = Attempt.objects.get()
    assert (attempt.outcome, attempt.reason and attempt.reason["code"]) == ("stopped", "cancelled")
    assert Audit.objects.get(kind="attempt_forced").data["attempt"] == agent.id
    assert Job.objects.get().state == "cancelled"


def test_after_a_forced_cancel_the_job_starts_only_once_its_worker_has_surely_stopped(
    agent: Agent, user: APIClient, host: Host, clock: Clock
) -> None:
    cancel(user, agent.job, force=True)
    waiting = user.post(f"/api/v1/jobs/{agent.job}/resume").json()["waiting"]
    assert waiting.startswith("Waits until") and "has surely stopped" in waiting
    assert user.post(f"/api/v1/jobs/{agent.job}/resume").json()["not_before"] is not None
    clock.advance(329)
    assert host.claim_post().status_code == 204
    clock.advance(2)
    assert host.claim_post().status_code == 200


def test_a_cancel_that_no_worker_obeys_is_made_in_the_end(agent: Agent, user: APIClient, clock: Clock) -> None:
    cancel(user, agent.job, force=False)
    for seconds in (300, 3500):
        clock.advance(seconds)
        agent.heartbeat()
        assert stuck_end() == 0
    clock.advance(101)
    assert stuck_end() == 1
    assert Job.objects.get().state == "cancelled"


def test_a_pause_that_no_worker_obeys_pauses_the_job(agent: Agent, user: APIClient, clock: Clock) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/pause")
    clock.advance(3901)
    assert stuck_end() == 1
    assert Job.objects.get().state == "paused"


def test_an_attempt_whose_finish_never_arrives_fails_in_the_end(agent: Agent, clock: Clock) -> None:
    """Its heartbeats go on, as of a worker whose every finish is answered 500."""
    for _ in range(11):
        clock.advance(3600)
        assert agent.heartbeat().status_code == 200
        assert stuck_end() == 0
    clock.advance(3601)
    assert agent.heartbeat().status_code == 200
    assert stuck_end() == 1
    job = Job.objects.get()
    assert (job.state, job.reason and job.reason["code"]) == ("failed", "no_progress")


def test_a_queued_job_needs_no_force(world: World, user: APIClient) -> None:
    assert cancel(user, submit(user, world), force=True) == "cancelled"
