"""Silent workers: their attempts end as lost, the jobs go on elsewhere, and outages of our own cost nothing."""

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
from api.jobs.services.reap import attempts_reap
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


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    agent = host.claim()
    agent.start()
    return agent


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
    told = Event.objects.filter(kind="state").order_by("seq").last()
    assert told is not None and told.data["reason"]["code"] == "worker_lost"
    words = {"state": "queued", "attempt": 1, "outcome": "lost", "next_step": 4, "tries": 1, "max_tries": 3}
    assert {name: told.data[name] for name in words} == words
    because = reason(ReasonCode.STORAGE_REFUSED).model_dump(mode="json")
    assert host.claim().finish("failed", reason=because).status_code == 200
    told = Event.objects.filter(kind="state").order_by("seq").last()
    assert told is not None and told.data["not_before"] and told.data["max_tries"] == 6
    assert (told.data["outcome"], told.data["next_step"], told.data["tries"]) == ("failed", 4, 1)


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


def test_a_heartbeat_between_the_reapers_look_and_its_lock_keeps_the_attempt(
    agent: Agent, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts_reap()
    Attempt.objects.update(lease_expires_at=clock.now() - timedelta(seconds=100))

    def lock_after_a_heartbeat(job_id: object) -> Job:
        """The reaper waits for the row; the heartbeat that held it was first."""
        assert agent.heartbeat().status_code == 200
        return job_lock(job_id)

    monkeypatch.setattr("api.jobs.services.reap.job_lock", lock_after_a_heartbeat)
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

    monkeypatch.setattr("api.jobs.services.reap.audit_add", fail)
    with pytest.raises(OSError, match="no room"):
        attempts_reap()
    assert Attempt.objects.get().lease_expires_at == before.lease_expires_at


@pytest.mark.usefixtures("agent")
def test_a_clock_that_goes_back_leaves_no_lease_longer_than_one(clock: Clock) -> None:
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
