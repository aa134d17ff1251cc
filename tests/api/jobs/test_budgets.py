"""Failures that are not the job's own: back to the queue with pauses, elsewhere, and workers in quarantine."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.jobs.models import Artifact, Attempt, Event, Job, Worker
from api.jobs.selectors import due_up_to
from api.monitoring import workers_by_state
from api.storage import storage
from tests.api.conftest import host_make
from tests.api.host import Agent, Host
from tests.api.jobs.test_claim import submit
from tests.api.world import Clock, Environ, World
from trainers.contract.errors import MEANINGS, ReasonCode, Retry, reason

pytestmark = pytest.mark.django_db


def fail(agent: Agent, code: ReasonCode, message: str = "") -> None:
    body = reason(code, message).model_dump(mode="json")
    assert agent.finish("failed", exit_code=1, reason=body).status_code == 200


def shown(user: APIClient, job: Any) -> dict[str, Any]:
    record: dict[str, Any] = user.get(f"/api/v1/jobs/{job}").json()
    return record


def test_a_reason_of_infrastructure_puts_the_job_back_with_growing_pauses(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job_id = submit(user, world)
    pauses = []
    for tries in range(1, 6):
        fail(host.claim(), ReasonCode.STORAGE_REFUSED)
        job = Job.objects.get(pk=job_id)
        assert (job.state, job.failed_tries) == ("queued", tries)
        assert job.not_before is not None
        pauses.append((job.not_before - clock.now()).total_seconds())
        assert host.claim_post().status_code == 204
        assert due_up_to("default", 10) == 0
        clock.advance(pauses[-1] + 1)
    assert all(48 * 4**n - 1 < pause <= min(60 * 4**n, 3600) for n, pause in enumerate(pauses[:3]))
    assert pauses[-1] <= 3600
    fail(host.claim(), ReasonCode.STORAGE_REFUSED)
    record = shown(user, job_id)
    assert (record["state"], record["reason"]["code"]) == ("failed", "storage_refused")
    assert len(record["attempts"]) == 6


def test_a_waiting_job_shows_reason_and_try(world: World, user: APIClient, host: Host) -> None:
    job_id = submit(user, world)
    fail(host.claim(), ReasonCode.STORAGE_REFUSED)
    record = shown(user, job_id)
    assert record["waiting"].startswith(f"Waits until {record['not_before'][:10]}")
    assert record["waiting"].endswith("The storage refused to take or give a file (try 2 of 6).")
    assert (record["failed_tries"], record["max_tries"]) == (1, 6)
    event = Event.objects.filter(job__pk=job_id, kind="state").last()
    assert event is not None and event.data["not_before"][:19] == record["not_before"][:19]


def test_resume_tries_at_once_and_clears_the_budget_of_a_failed_job(
    world: World, user: APIClient, host: Host, environ: Environ
) -> None:
    environ(max_tries=2)
    job_id = submit(user, world)
    fail(host.claim(), ReasonCode.STORAGE_REFUSED)
    user.post(f"/api/v1/jobs/{job_id}/resume")
    fail(host.claim(), ReasonCode.STORAGE_REFUSED)
    assert shown(user, job_id)["state"] == "failed"
    assert user.post(f"/api/v1/jobs/{job_id}/resume").json()["failed_tries"] == 0
    assert host.claim_post().status_code == 200


def test_a_new_checkpoint_resets_the_tries(world: World, user: APIClient, host: Host, clock: Clock) -> None:
    job_id = submit(user, world)
    for step in (1, 2, 3, 4, 5, 6, 7):
        agent = host.claim()
        agent.checkpoint(step)
        fail(agent, ReasonCode.STORAGE_REFUSED)
        clock.advance(4000)
    job = Job.objects.get(pk=job_id)
    assert (job.state, job.failed_tries) == ("queued", 1)
    assert host.claim().claim["spec"]["inputs"]["checkpoint"]["details"] == {"step": 7}


def test_a_failure_of_infrastructure_while_it_is_paused_pauses_the_job(
    world: World, user: APIClient, host: Host
) -> None:
    job_id = submit(user, world)
    agent = host.claim()
    user.post(f"/api/v1/jobs/{job_id}/pause")
    fail(agent, ReasonCode.STORAGE_REFUSED)
    assert shown(user, job_id)["state"] == "paused"


@pytest.mark.parametrize("code", [code for code in ReasonCode if MEANINGS[code].retry == Retry.NEVER])
def test_a_failure_of_the_trainer_is_not_tried_again(
    world: World, user: APIClient, host: Host, code: ReasonCode
) -> None:
    job_id = submit(user, world)
    fail(host.claim(), code)
    assert shown(user, job_id)["state"] == "failed"


@pytest.fixture
def other(db: None) -> Host:  # noqa: ARG001
    """A second worker host."""
    return host_make(host="otherhost")


def test_a_failing_worker_loses_its_job_to_another(world: World, user: APIClient, host: Host, other: Host) -> None:
    first, second = submit(user, world), submit(user, world)
    fail(host.claim(), ReasonCode.DISK_FULL)
    assert Job.objects.get(pk=first).not_before is None
    assert str(host.claim().job) == str(second)
    assert host.claim_post().status_code == 204
    assert str(other.claim().job) == str(first)


def test_a_sick_worker_without_another_gets_the_job_again_later(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job_id = submit(user, world)
    fail(host.claim(), ReasonCode.DISK_FULL)
    assert host.claim_post().status_code == 204
    clock.advance(61)
    assert str(host.claim().job) == str(job_id)


def test_a_job_that_avoids_a_worker_comes_back_when_the_other_is_gone(
    world: World, user: APIClient, host: Host, other: Host
) -> None:
    job_id = submit(user, world)
    fail(host.claim(), ReasonCode.DISK_FULL)
    assert host.claim_post().status_code == 204
    assert other.post("workers/goodbye", other.who()).status_code == 204
    assert str(host.claim().job) == str(job_id)


def test_a_missing_library_fails_once_no_other_worker_is_left(
    world: World, user: APIClient, host: Host, other: Host
) -> None:
    job_id = submit(user, world)
    fail(host.claim(), ReasonCode.MISSING_LIBRARY, "bitsandbytes is not installed.")
    assert shown(user, job_id)["state"] == "queued"
    fail(other.claim(), ReasonCode.MISSING_LIBRARY, "bitsandbytes is not installed.")
    record = shown(user, job_id)
    assert (record["state"], record["reason"]["message"]) == ("failed", "bitsandbytes is not installed.")


def sicken(world: World, user: APIClient, host: Host, count: int) -> None:
    for _ in range(count):
        submit(user, world)
        fail(host.claim(), ReasonCode.DISK_FULL)


@pytest.mark.usefixtures("other")
def test_a_worker_with_three_such_failures_in_a_row_is_quarantined_and_shown(
    world: World, user: APIClient, host: Host
) -> None:
    sicken(world, user, host, 3)
    submit(user, world)
    assert host.claim_post().status_code == 204
    assert host.heartbeat().json()["quarantine"] == "disk_full"
    row = next(row for row in user.get("/api/v1/workers").json()["results"] if row["id"] == host.worker)
    assert row["quarantined_at"] and row["quarantine"]["code"] == "disk_full"
    assert workers_by_state() == {"live": 1, "quarantined": 1, "away": 0}
    assert user.get("/readyz").json()["quarantined"] == ["testhost (disk_full)"]
    assert Audit.objects.get(kind="worker_quarantined").data["reason"] == "disk_full"


@pytest.mark.usefixtures("other")
def test_a_success_between_failures_keeps_a_worker_out_of_quarantine(
    world: World, user: APIClient, host: Host, other: Host
) -> None:
    sicken(world, user, host, 2)
    for _ in range(2):
        other.claim().finish()
    submit(user, world)
    host.claim().finish()
    sicken(world, user, host, 2)
    assert Worker.objects.get(pk=host.worker).quarantined_at is None


def test_one_job_that_fills_the_disk_again_and_again_quarantines_nobody(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    job_id = submit(user, world)
    for _ in range(5):
        fail(host.claim(), ReasonCode.DISK_FULL)
        clock.advance(4000)
        host.heartbeat()
    assert Worker.objects.get(pk=host.worker).quarantined_at is None
    fail(host.claim(), ReasonCode.DISK_FULL)
    assert shown(user, job_id)["reason"]["code"] == "disk_full"


@pytest.mark.usefixtures("other")
def test_a_person_releases_a_worker(world: World, user: APIClient, host: Host) -> None:
    sicken(world, user, host, 3)
    released = user.post(f"/api/v1/workers/{host.worker}/release").json()
    assert (released["quarantined_at"], released["quarantine"]) == (None, None)
    submit(user, world)
    assert host.claim_post().status_code == 200


@pytest.mark.usefixtures("other")
def test_a_passed_self_check_releases_a_worker_after_a_while(
    world: World, user: APIClient, host: Host, clock: Clock
) -> None:
    sicken(world, user, host, 3)
    beat = {**host.who(), "free_slots": 1}
    assert host.post("workers/heartbeat", {**beat, "self_check": "passed"}).json()["quarantine"] == "disk_full"
    clock.advance(601)
    assert host.post("workers/heartbeat", {**beat, "self_check": "failed"}).json()["quarantine"] == "disk_full"
    assert host.post("workers/heartbeat", {**beat, "self_check": "passed"}).json()["quarantine"] is None
    assert "self-check" in Audit.objects.get(kind="worker_released").actor


@pytest.mark.usefixtures("other")
def test_a_restart_releases_a_worker(world: World, user: APIClient, host: Host, clock: Clock) -> None:
    sicken(world, user, host, 3)
    clock.advance(61)
    host.boot_id = host.boot_id[:-4] + "0000"
    assert host.hello().status_code == 200
    assert Worker.objects.get(pk=host.worker).quarantined_at is None


def test_a_job_waits_for_a_worker_with_room_for_its_inputs(world: World, user: APIClient, host: Host) -> None:
    job_id = submit(user, world)
    size = Job.objects.get(pk=job_id).input_bytes
    assert size == 5
    assert host.claim_post(room_bytes=size - 1).status_code == 204
    Job.objects.update(input_bytes=24 * 10**9)
    assert shown(user, job_id)["waiting"].startswith("Its inputs take 24.0 GB; no worker of the pool 'default' has")
    assert host.claim_post(room_bytes=24 * 10**9).status_code == 200


def test_the_checkpoint_counts_as_an_input(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    agent = host.claim()
    agent.checkpoint(1)
    agent.finish("drained")
    need = Job.objects.get().input_bytes + Artifact.objects.get().size_bytes
    assert host.claim_post(room_bytes=need - 1).status_code == 204
    assert host.claim_post(room_bytes=need).status_code == 200


def test_a_small_job_behind_one_that_has_no_room_is_taken(world: World, user: APIClient, host: Host) -> None:
    big, small = submit(user, world), submit(user, world)
    Job.objects.filter(pk=big).update(input_bytes=10**12)
    assert str(host.claim(room_bytes=10**9).job) == str(small)


@pytest.fixture
def resumed(world: World, user: APIClient, host: Host) -> Agent:
    """Of a job with checkpoints of steps 2 and 4."""
    submit(user, world)
    agent = host.claim()
    agent.checkpoint(2)
    agent.checkpoint(4)
    agent.finish("drained")
    return host.claim()


def step_of(agent: Agent) -> Any:
    checkpoint = agent.claim["spec"]["inputs"].get("checkpoint")
    return checkpoint and checkpoint["details"]["step"]


def test_a_damaged_checkpoint_is_marked_and_the_one_before_is_used(resumed: Agent, user: APIClient, host: Host) -> None:
    assert step_of(resumed) == 4
    fail(resumed, ReasonCode.CHECKPOINT_DAMAGED, "state has the wrong digest.")
    assert shown(user, resumed.job)["state"] == "queued"
    assert [row.damaged for row in Artifact.objects.order_by("step")] == ["", "state has the wrong digest."]
    event = Event.objects.get(kind="warning")
    assert "step 4 cannot be used" in event.data["message"] and "from step 2" in event.data["message"]
    listed = user.get(f"/api/v1/jobs/{resumed.job}/artifacts").json()["results"]
    assert [row["damaged"] for row in listed if row["step"] == 4] == ["state has the wrong digest."]
    assert step_of(host.claim()) == 2


def test_without_an_older_checkpoint_the_job_fails_until_a_person_restarts_it(
    resumed: Agent, user: APIClient, host: Host
) -> None:
    fail(resumed, ReasonCode.CHECKPOINT_DAMAGED)
    fail(host.claim(), ReasonCode.CHECKPOINT_DAMAGED)
    record = shown(user, resumed.job)
    assert (record["state"], record["reason"]["code"]) == ("failed", "checkpoint_damaged")
    user.post(f"/api/v1/jobs/{resumed.job}/resume")
    assert step_of(host.claim()) is None
    assert "starts again from step 0" in Event.objects.filter(kind="warning").order_by("seq").last().data["message"]  # type: ignore[union-attr]


def test_a_damaged_checkpoint_never_evicts_a_complete_one(resumed: Agent, host: Host) -> None:
    fail(resumed, ReasonCode.CHECKPOINT_DAMAGED)
    agent = host.claim()
    for step in (3, 4):
        agent.checkpoint(step)
    remaining = Artifact.objects.filter(kind="checkpoint").order_by("pk").values_list("step", "damaged")
    assert list(remaining) == [(2, ""), (3, ""), (4, "")]


def test_a_missing_checkpoint_is_noticed_by_the_api_itself(resumed: Agent, host: Host) -> None:
    storage().delete_prefix(f"jobs/{resumed.job}/1/checkpoints/step-00000004/")
    fail(resumed, ReasonCode.STORAGE_REFUSED, "checkpoint/state: status 404")
    assert Attempt.objects.get(fence=2).reason["code"] == "checkpoint_damaged"  # type: ignore[index]
    assert step_of(host.claim()) == 2


def test_a_failure_while_the_trainer_runs_marks_no_checkpoint(resumed: Agent) -> None:
    resumed.start(step=4)
    storage().delete_prefix(f"jobs/{resumed.job}/1/checkpoints/step-00000004/")
    fail(resumed, ReasonCode.STORAGE_REFUSED, "out/samples: status 503")
    assert Attempt.objects.get(fence=2).reason["code"] == "storage_refused"  # type: ignore[index]
    assert list(Artifact.objects.exclude(damaged="")) == []


def test_an_outage_marks_no_checkpoint(resumed: Agent, host: Host, clock: Clock) -> None:
    fail(resumed, ReasonCode.STORAGE_REFUSED, "checkpoint/state: status 503")
    clock.advance(61)
    assert step_of(host.claim()) == 4


def test_due_jobs_alone_are_ahead(world: World, user: APIClient, host: Host) -> None:
    submit(user, world)
    fail(host.claim(), ReasonCode.STORAGE_REFUSED)
    assert "ahead" not in shown(user, submit(user, world))["waiting"]
