"""The end of attempts without their workers: silent and stuck ones, forced cancels; outages of our own cost nothing."""

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from rest_framework.test import APIClient

from api.audit.clock import now
from api.audit.models import Audit
from api.jobs.models import Attempt, Event, Job, ReaperPass, Worker
from api.jobs.services.attempt_lifecycle import attempts_reap, stuck_end
from api.jobs.transitions import job_lock
from tests.api.host import Agent, Host
from tests.api.jobs.test_claim import submit
from tests.api.world import Clock, World
from tests.patience import PATIENCE_SECONDS
from trainers.contract.errors import ReasonCode, reason

pytestmark = pytest.mark.django_db


def reap_after(clock: Clock, seconds: float) -> int:
    """Reaps every 2 s, as the dispatcher does, until `seconds` have passed."""
    count = attempts_reap()
    for _ in range(int(seconds // 8)):
        clock.advance(8)
        count += attempts_reap()
    return count


@pytest.mark.usefixtures("agent")
def test_an_attempt_is_reaped_after_its_lease_and_the_grace(clock: Clock) -> None:
    assert reap_after(clock, 328) == 0
    assert reap_after(clock, 8) == 1
    job, attempt = Job.objects.get(), Attempt.objects.get()
    assert (job.state, attempt.outcome, job.losses_without_checkpoint) == ("queued", "lost", 1)
    assert attempt.reason is not None and attempt.reason["code"] == "worker_lost"


def test_followers_read_why_an_attempt_ended_and_where_the_next_begins(agent: Agent, clock: Clock, host: Host) -> None:
    agent.start()
    agent.checkpoint(4)
    reap_after(clock, 400)
    event = Event.objects.filter(kind="state").order_by("seq").last()
    assert event is not None and event.data["reason"]["code"] == "worker_lost"
    words = {"state": "queued", "attempt": 1, "outcome": "lost", "next_step": 4, "tries": 1, "max_tries": 3}
    assert {name: event.data[name] for name in words} == words
    because = reason(ReasonCode.STORAGE_REFUSED).model_dump(mode="json")
    assert host.claim().finish("failed", reason=because).status_code == 200
    event = Event.objects.filter(kind="state").order_by("seq").last()
    assert event is not None and event.data["not_before"] and event.data["max_tries"] == 6
    assert (event.data["outcome"], event.data["next_step"], event.data["tries"]) == ("failed", 4, 1)


def test_a_zombie_can_change_nothing(agent: Agent, clock: Clock, host: Host) -> None:
    reap_after(clock, 400)
    next_one = host.claim()
    assert next_one.fence == 2
    assert agent.heartbeat().status_code == 409
    for answer in (
        agent.events({"seq": 2, "time": 0, "data": {"kind": "warning", "message": "x"}}),
        agent.log(0, b"x"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (410, "attempt_ended")
    assert agent.post("uploads", {"files": [{"path": "a", "size": 0, "sha256": "0" * 64}]}).status_code == 410
    assert agent.finish("failed").status_code == 410
    assert Job.objects.get().state == "claimed"


def test_a_heartbeat_just_before_the_reaper_keeps_the_job(agent: Agent, clock: Clock) -> None:
    reap_after(clock, 320)
    assert agent.heartbeat().status_code == 200
    assert reap_after(clock, 320) == 0


def test_a_heartbeat_between_the_reapers_read_and_its_lock_keeps_the_attempt(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts_reap()
    Attempt.objects.update(lease_expires_at=clock.now() - timedelta(seconds=100))

    def lock_after_a_heartbeat(job_id: object) -> Job:
        """The reaper waits for the row; the heartbeat that held it was first."""
        assert agent.heartbeat().status_code == 200
        return job_lock(job_id)

    monkeypatch.setattr("api.jobs.services.attempt_lifecycle.job_lock", lock_after_a_heartbeat)
    assert attempts_reap() == 0
    assert Attempt.objects.get().ended_at is None


@pytest.mark.usefixtures("agent")
def test_a_gap_between_passes_extends_all_leases(clock: Clock) -> None:
    attempts_reap()
    first, before = ReaperPass.objects.get().at, Attempt.objects.get()
    clock.advance(5000)
    assert attempts_reap() == 0
    gap = ReaperPass.objects.get().at - first
    audit = Audit.objects.get(kind="leases_extended").data
    assert audit == {"gap_seconds": gap.total_seconds(), "attempts": 1}
    after = Attempt.objects.get()
    assert after.lease_expires_at - before.lease_expires_at == after.progress_at - before.progress_at == gap
    assert reap_after(clock, 320) == 0
    assert reap_after(clock, 16) == 1


@pytest.mark.usefixtures("agent")
def test_a_pass_that_fails_in_the_middle_extends_nothing(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts_reap()
    before = Attempt.objects.get()
    clock.advance(5000)

    def fail(**_: object) -> None:
        raise OSError("no room for the audit row")

    monkeypatch.setattr("api.jobs.services.attempt_lifecycle.audit_add", fail)
    with pytest.raises(OSError, match="no room"):
        attempts_reap()
    assert Attempt.objects.get().lease_expires_at == before.lease_expires_at


@pytest.mark.usefixtures("agent")
def test_after_the_clock_goes_back_no_lease_is_longer_than_one(clock: Clock) -> None:
    attempts_reap()
    clock.advance(-5000)
    assert attempts_reap() == 0
    assert Attempt.objects.get().lease_expires_at <= now() + timedelta(seconds=300)
    assert Worker.objects.get().last_seen <= now()
    assert reap_after(clock, 320) == 0
    assert reap_after(clock, 16) == 1


def test_a_lost_job_that_was_being_cancelled_is_cancelled(agent: Agent, clock: Clock, user: APIClient) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    reap_after(clock, 400)
    assert Job.objects.get().state == "cancelled"


def test_three_losses_in_a_row_without_a_checkpoint_are_poison(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job_id = submit(user, world)
    for _ in range(3):
        host.claim()
        reap_after(clock, 400)
    job = Job.objects.get(pk=job_id)
    assert job.reason is not None
    assert (job.state, job.reason["code"]) == ("failed", "poison")
    assert user.post(f"/api/v1/jobs/{job_id}/resume").json()["state"] == "queued"
    assert Job.objects.get(pk=job_id).losses_without_checkpoint == 0


def test_a_checkpoint_between_losses_keeps_the_job_alive(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job_id = submit(user, world)
    for step in (1, 2, 3, 4):
        host.claim().checkpoint(step)
        reap_after(clock, 400)
    assert Job.objects.get(pk=job_id).state == "queued"


def test_the_agents_own_report_of_a_loss_counts_too(agent: Agent) -> None:
    agent.finish("lost")
    job = Job.objects.get()
    assert (job.state, job.losses_without_checkpoint) == ("queued", 1)


@pytest.mark.django_db(transaction=True)
def test_two_reapers_at_once_end_an_attempt_once(agent: Agent) -> None:
    Attempt.objects.update(lease_expires_at=now() - timedelta(seconds=60))
    barrier, reaped = threading.Barrier(4), []

    def reap() -> None:
        barrier.wait()
        try:
            reaped.append(attempts_reap())
        finally:
            connection.close()

    threads = [threading.Thread(target=reap) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=PATIENCE_SECONDS)
    assert sorted(reaped) == [0, 0, 0, 1]
    assert Job.objects.get(pk=agent.job).losses_without_checkpoint == 1


def overtaken(monkeypatch: pytest.MonkeyPatch, rows: type[ReaperPass | Attempt], meanwhile: Callable[[], None]) -> None:
    """The next lock on `rows` is waited for: `meanwhile` runs before it is held."""
    manager, real = rows.objects, rows.objects.select_for_update

    def wait(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(manager, "select_for_update", real)
        meanwhile()
        return real(*args, **options)

    monkeypatch.setattr(manager, "select_for_update", wait)


def test_a_reaper_that_waited_for_its_lock_cuts_no_live_lease(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts_reap()

    def another_reaper_is_first() -> None:
        for _ in range(50):
            clock.advance(8)
            attempts_reap()
            assert agent.heartbeat().status_code == 200

    overtaken(monkeypatch, ReaperPass, another_reaper_is_first)
    attempts_reap()
    assert Attempt.objects.get().lease_expires_at > now() + timedelta(seconds=250 + 400)
    assert ReaperPass.objects.get().at > now() + timedelta(seconds=390)
    assert reap_after(clock, 300) == 0


def test_a_heartbeat_that_waited_for_its_lock_shortens_no_lease(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = QuerySet.select_for_update

    def wait(rows: Any, **options: Any) -> Any:
        if rows.model is Attempt:
            monkeypatch.setattr(QuerySet, "select_for_update", real)
            clock.advance(200)
            assert agent.heartbeat().status_code == 200
        return real(rows, **options)

    monkeypatch.setattr(QuerySet, "select_for_update", wait)
    assert agent.heartbeat().status_code == 200
    assert Attempt.objects.get().lease_expires_at > now() + timedelta(seconds=200 + 290)


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


def test_a_cancel_that_no_worker_obeys_is_enforced_after_its_limit(agent: Agent, user: APIClient, clock: Clock) -> None:
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
