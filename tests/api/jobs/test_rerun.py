"""Jobs again, with changes; jobs edited; jobs deleted."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.catalog.models import Adaptor, DatasetVersion, Removal
from api.catalog.removals import removals_sweep
from api.jobs.models import Attempt, Job, JobInput, Metric
from api.storage import storage
from tests.api.host import Host, step_event
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/jobs"


@pytest.fixture
def job(world: World, user: APIClient) -> dict[str, Any]:
    created: dict[str, Any] = user.post(PATH, {**world.request, "priority": 3}, format="json").json()
    return created


@pytest.fixture
def trained(job: dict[str, Any], host: Host) -> dict[str, Any]:
    agent = host.claim()
    agent.start()
    agent.events(step_event(2, 1))
    agent.checkpoint(1)
    assert agent.finish().status_code == 200
    return job


def again(user: APIClient, job: dict[str, Any], body: dict[str, Any], **headers: str) -> Any:
    return user.post(f"{PATH}/{job['id']}/rerun", body, format="json", headers=headers)


def test_a_clone_is_the_same_job_and_knows_its_parent(user: APIClient, job: dict[str, Any]) -> None:
    answer = again(user, job, {})
    clone = answer.json()
    assert (answer.status_code, clone["parent"], clone["id"] == job["id"]) == (201, job["id"], False)
    same = ("name", "method", "params", "inputs", "resources", "pool", "priority")
    assert {key: clone[key] for key in same} == {key: job[key] for key in same}
    assert Job.objects.get(pk=clone["id"]).spec_digest == Job.objects.get(pk=job["id"]).spec_digest
    assert [row["id"] for row in user.get(f"{PATH}?parent={job['id']}").json()["results"]] == [clone["id"]]


def test_a_rerun_keeps_the_versions_that_the_job_read(user: APIClient, job: dict[str, Any]) -> None:
    first = DatasetVersion.objects.get()
    DatasetVersion.objects.create(
        record=first.record, version=2, key="datasets/2", digest="0" * 64, files=[], num_files=0, size_bytes=0
    )
    assert again(user, job, {}).json()["inputs"]["dataset"]["name"] == "shapes@1"
    assert again(user, job, {"dataset": "shapes"}).json()["inputs"]["dataset"]["name"] == "shapes@2"


def test_a_rerun_changes_what_it_names_and_nothing_else(user: APIClient, job: dict[str, Any]) -> None:
    changed = again(user, job, {"name": "hotter", "params": {"learning_rate": 0.01}, "priority": 9}).json()
    assert (changed["name"], changed["priority"], changed["params"]["learning_rate"]) == ("hotter", 9, 0.01)
    assert {**changed["params"], "learning_rate": 0} == {**job["params"], "learning_rate": 0}
    back = again(user, job, {"params": {"lora_r": 4, "lora_alpha": None}}).json()["params"]
    assert (back["lora_r"], back["lora_alpha"]) == (4, 16), "null: as if it had never been set"
    wrong = again(user, job, {"params": {"lora_r": 0}})
    assert (wrong.status_code, list(wrong.json()["fields"])) == (400, ["params.lora_r"])
    assert list(again(user, job, {"method": "sample_image"}).json()["fields"]) == ["method"]


def test_the_same_key_returns_the_same_rerun(user: APIClient, job: dict[str, Any]) -> None:
    key = {"Idempotency-Key": "again"}
    first, second = again(user, job, {}, **key), again(user, job, {}, **key)
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]
    assert again(user, job, {"priority": 1}, **key).json()["code"] == "idempotency_key_reused"
    assert again(user, first.json(), {}, **key).status_code == 409, "the same body about another job is another wish"


def test_a_rerun_with_a_deleted_dataset_is_refused(user: APIClient, job: dict[str, Any]) -> None:
    DatasetVersion.objects.all().delete()
    refused = again(user, job, {})
    assert (refused.status_code, refused.json()["code"]) == (409, "input_gone")
    assert list(refused.json()["fields"]) == ["inputs.dataset"]
    user.post(f"{PATH}/{job['id']}/pause")
    assert user.post(f"{PATH}/{job['id']}/resume").json()["code"] == "input_gone"


def test_priority_moves_a_job_only_while_it_is_queued(user: APIClient, world: World, host: Host) -> None:
    low, high = (user.post(PATH, {**world.request, "name": name}, format="json").json() for name in ("low", "high"))
    raised = user.patch(f"{PATH}/{high['id']}", {"priority": 5}, format="json")
    assert (raised.status_code, raised.json()["priority"]) == (200, 5)
    assert host.claim().job == high["id"]
    late = user.patch(f"{PATH}/{high['id']}", {"priority": 6}, format="json")
    assert (late.status_code, late.json()["code"]) == (409, "job_state")
    assert user.patch(f"{PATH}/{low['id']}", {"priority": 1001}, format="json").status_code == 400


def test_notes_and_labels_are_stored_and_filtered(user: APIClient, job: dict[str, Any]) -> None:
    edited = user.patch(f"{PATH}/{job['id']}", {"notes": "too dark", "labels": ["b", "a", "a"]}, format="json").json()
    assert (edited["notes"], edited["labels"]) == ("too dark", ["a", "b"])
    assert [row["id"] for row in user.get(f"{PATH}?label=a").json()["results"]] == [job["id"]]
    assert user.patch(f"{PATH}/{job['id']}", {"labels": []}, format="json").json()["notes"] == "too dark"
    assert user.get(f"{PATH}?label=a").json()["results"] == []
    assert user.patch(f"{PATH}/{job['id']}", {"labels": ["<b>"]}, format="json").status_code == 400
    assert Audit.objects.filter(kind="job_edited").count() == 2


def test_an_ended_job_is_deleted_with_its_files_but_not_before_its_adaptor(
    user: APIClient, trained: dict[str, Any]
) -> None:
    path, prefix = f"{PATH}/{trained['id']}", f"jobs/{trained['id']}/"
    refused = user.delete(path)
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert refused.json()["fields"] == {"adaptors": ["shapes@1"]}
    assert user.delete("/api/v1/adaptors/shapes@1").status_code == 204
    assert user.delete(path).status_code == 204
    assert user.get(path).status_code == 404
    assert not Attempt.objects.exists() and not Metric.objects.exists() and not JobInput.objects.exists()
    assert list(storage().list(prefix)), "files go after the commit, by the sweep"
    assert removals_sweep() == 2
    assert not list(storage().list(prefix)) and not Removal.objects.exists()


def test_a_job_that_may_still_run_is_not_deleted(user: APIClient, job: dict[str, Any]) -> None:
    assert user.delete(f"{PATH}/{job['id']}").json()["code"] == "job_state"
    user.post(f"{PATH}/{job['id']}/cancel")
    assert user.delete(f"{PATH}/{job['id']}").status_code == 204
    assert Audit.objects.filter(kind="job_deleted").count() == 1


def test_a_stranger_changes_nothing(stranger: APIClient, trained: dict[str, Any]) -> None:
    path = f"{PATH}/{trained['id']}"
    assert again(stranger, trained, {}).status_code == 404
    assert stranger.patch(path, {"priority": 1}, format="json").status_code == 404
    assert stranger.delete(path).status_code == 404
    assert (Job.objects.count(), Adaptor.objects.count()) == (1, 1)
