"""How attempts end, and what becomes of their jobs."""

import pytest
from rest_framework.test import APIClient

from api.catalog.models import Adaptor
from api.errors import Problem
from api.jobs.models import Attempt, Job
from tests.api.host import Agent, Host, step_event
from tests.api.jobs.test_claim import submit
from tests.api.world import World, file_entry
from trainers.contract.errors import ReasonCode, reason

pytestmark = pytest.mark.django_db


def state(agent: Agent) -> tuple[str, str | None]:
    job = Job.objects.get(pk=agent.job)
    return job.state, job.reason and job.reason["code"]


def test_a_finish_sent_again_changes_nothing_and_another_is_refused(agent: Agent) -> None:
    body = agent.finish_body("succeeded")
    assert agent.post("finish", body).status_code == 200
    assert agent.post("finish", body).json()["outcome"] == "succeeded"
    refused = agent.finish("failed")
    assert (refused.status_code, refused.json()["code"]) == (410, "attempt_ended")
    assert Adaptor.objects.count() == 1
    assert state(agent) == ("succeeded", None)


def test_every_other_finish_of_an_ended_attempt_is_refused(agent: Agent) -> None:
    assert agent.finish("failed").status_code == 200
    answers = [agent.finish("failed", last_step=step).status_code for step in range(10)]
    assert answers == [410] * 10
    assert agent.finish("failed").status_code == 200, "the first one again"


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("exit_code", -(2**31) + 1, 200),
        ("exit_code", -(2**31), 400),
        ("exit_code", 2**31, 400),
        ("last_step", 0, 200),
        ("last_step", -1, 400),
    ],
)
def test_numbers_of_a_finish_are_bounded(agent: Agent, field: str, value: int, status: int) -> None:
    assert agent.finish("failed", **{field: value}).status_code == status
    assert Attempt.objects.filter(**{field: value}).count() == (status == 200)


@pytest.mark.parametrize(("reported", "recorded"), [(7, 7), (None, 3)])
def test_the_last_step_is_the_agents_or_that_of_its_events(agent: Agent, reported: int | None, recorded: int) -> None:
    agent.events(step_event(2, 3))
    agent.finish("failed", last_step=reported)
    assert Attempt.objects.get().last_step == recorded


def test_success_without_a_manifest_is_a_failure(agent: Agent) -> None:
    assert agent.finish("succeeded", manifest=False).json()["outcome"] == "failed"
    assert state(agent) == ("failed", "no_manifest")
    assert Adaptor.objects.count() == 0


def test_success_whose_files_were_not_uploaded_is_a_failure(agent: Agent) -> None:
    files = [file_entry("adaptor/weights.safetensors", b"never sent")]
    body = {**agent.finish_body("succeeded", manifest=False), "files": files}
    agent.post("finish", {**body, "manifest": {"outcome": "succeeded", "files": files}})
    assert state(agent) == ("failed", "no_manifest")
    recorded = Attempt.objects.get().reason
    assert recorded is not None and "weights.safetensors: is missing" in recorded["detail"]


def test_five_missing_files_are_named(agent: Agent) -> None:
    files = [file_entry(f"adaptor/{index}", b"never sent") for index in range(7)]
    body = {**agent.finish_body("succeeded", manifest=False), "files": files}
    agent.post("finish", {**body, "manifest": {"outcome": "succeeded", "files": files}})
    attempt_reason = Attempt.objects.get().reason
    assert attempt_reason is not None
    assert attempt_reason["detail"] == "; ".join(f"adaptor/{index}: is missing" for index in range(5))


def test_a_manifest_that_names_missing_files_is_incomplete(agent: Agent) -> None:
    body = agent.finish_body("succeeded")
    body["manifest"]["files"] = [*body["files"], file_entry("adaptor/more", b"more")]
    agent.post("finish", body)
    assert state(agent) == ("failed", "no_manifest")


@pytest.mark.parametrize(("digest", "state_after"), [("0" * 64, "failed"), (None, "succeeded")])
def test_a_manifest_of_another_spec_is_no_success(agent: Agent, digest: str | None, state_after: str) -> None:
    body = agent.finish_body("succeeded")
    body["manifest"]["spec_digest"] = digest or Job.objects.get(pk=agent.job).spec_digest
    agent.post("finish", body)
    assert Job.objects.get(pk=agent.job).state == state_after
    reason_recorded = Attempt.objects.get().reason
    assert (reason_recorded and reason_recorded["detail"]) == (
        "the manifest belongs to another spec" if digest else None
    )
    assert Adaptor.objects.count() == (0 if digest else 1)


def test_a_failure_keeps_the_trainers_reason(agent: Agent, user: APIClient) -> None:
    reported = reason(ReasonCode.OUT_OF_MEMORY, "Out of memory in step 3.").model_dump(mode="json")
    agent.finish("failed", exit_code=1, reason=reported)
    shown = user.get(f"/api/v1/jobs/{agent.job}").json()
    assert (shown["state"], shown["reason"]) == ("failed", reported)
    assert shown["attempts"][0]["exit_code"] == 1


def test_a_failure_without_a_reason_gets_one(agent: Agent) -> None:
    agent.finish("failed", exit_code=3)
    assert state(agent) == ("failed", "internal")


def test_cancel_of_a_queued_job_is_at_once(world: World, user: APIClient, host: Host) -> None:
    job = submit(user, world)
    assert user.post(f"/api/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert user.post(f"/api/v1/jobs/{job}/cancel").json()["state"] == "cancelled"
    assert host.claim_post().status_code == 204


def test_cancel_of_a_finished_job_changes_nothing(agent: Agent, user: APIClient) -> None:
    agent.finish()
    answer = user.post(f"/api/v1/jobs/{agent.job}/cancel")
    assert (answer.status_code, answer.json()["fields"]) == (409, {"state": ["succeeded"]})
    assert state(agent) == ("succeeded", None)


def test_a_job_that_succeeds_while_it_is_cancelled_has_succeeded(agent: Agent, user: APIClient) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    agent.finish()
    assert state(agent) == ("succeeded", None)


def test_pause_and_resume_go_on_from_the_checkpoint(agent: Agent, user: APIClient, host: Host) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/pause")
    assert agent.heartbeat().json()["stop"] == "pause"
    agent.checkpoint(6)
    agent.finish("stopped", manifest=False)
    assert state(agent) == ("paused", "paused")
    assert user.post(f"/api/v1/jobs/{agent.job}/resume").json()["state"] == "queued"
    resumed = host.claim()
    assert (resumed.fence, resumed.claim["attempt"]["n"]) == (2, 2)
    assert resumed.claim["spec"]["inputs"]["checkpoint"]["details"] == {"step": 6}
    assert resumed.heartbeat().json()["stop"] is None


def test_resume_of_a_succeeded_or_running_job_is_refused(agent: Agent, user: APIClient) -> None:
    assert user.post(f"/api/v1/jobs/{agent.job}/resume").status_code == 409
    agent.finish()
    assert user.post(f"/api/v1/jobs/{agent.job}/resume").status_code == 409


@pytest.mark.parametrize(("verb", "code"), [("cancel", "cancelled"), ("pause", "paused")])
def test_a_stopped_attempt_names_the_request_that_stopped_it(
    agent: Agent, user: APIClient, verb: str, code: str
) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/{verb}")
    assert agent.finish("stopped", manifest=False).json()["outcome"] == "stopped"
    attempt_reason = Attempt.objects.get().reason
    assert attempt_reason is not None and attempt_reason["code"] == code


def test_a_stop_without_a_request_requeues_the_job(agent: Agent) -> None:
    agent.finish("stopped", manifest=False)
    assert state(agent) == ("queued", "preempted")
    assert Attempt.objects.get().outcome == "preempted"


def test_an_unrequested_stop_publishes_no_partial_adaptor(agent: Agent) -> None:
    agent.finish("stopped")
    assert state(agent) == ("queued", "preempted")
    assert Adaptor.objects.count() == 0


def test_a_requested_stop_publishes_a_partial_adaptor(agent: Agent, user: APIClient) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    agent.finish("stopped")
    assert state(agent) == ("cancelled", "cancelled")
    assert Adaptor.objects.get().partial


def test_a_drained_job_that_is_being_cancelled_is_cancelled(agent: Agent, user: APIClient) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    agent.finish("drained")
    assert state(agent) == ("cancelled", "cancelled")


def test_versions_of_an_adaptor_count_up(world: World, user: APIClient, host: Host) -> None:
    for number in (1, 2):
        submit(user, world)
        agent = host.claim()
        agent.finish()
        assert user.get(f"/api/v1/jobs/{agent.job}").json()["adaptor"]["version"] == number


def test_an_adaptor_that_the_catalog_refuses_is_a_failure_with_its_words(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> None:
        raise Problem("no_adaptor", "The name is taken.")

    monkeypatch.setattr("api.jobs.services.finish.adaptor_publish", refuse)
    assert agent.finish().json()["reason"]["detail"] == "The name is taken."
    assert state(agent) == ("failed", "no_manifest")


@pytest.mark.parametrize("files", [5, [1], [{"path": "x"}]])
def test_a_manifest_that_cannot_be_read_is_a_failure(agent: Agent, files: object) -> None:
    body = agent.finish_body("succeeded")
    body["manifest"]["files"] = files
    assert agent.post("finish", body).status_code == 200
    assert state(agent) == ("failed", "no_manifest")
