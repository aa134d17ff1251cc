"""The end of a job that leaves a dataset or base model: a version, with where it came from."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.catalog.models import Dataset, DatasetVersion, PretrainedModelVersion
from api.catalog.versions.checks import versions_check
from tests.api.actors import png
from tests.api.host import Agent, Host
from tests.api.world import World
from trainers.contract.params import params_class

pytestmark = pytest.mark.django_db
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = {"endpoint": "https://huggingface.co", "repo": "me/tiny", "revision": "main", "commit": COMMIT}
FILES = {"a.png": png(8, 8), "metadata.jsonl": b'{"file_name": "a.png", "text": "a cat"}\n'}


def submit(client: APIClient, method: str = "fetch_dataset", name: str = "tiny") -> str:
    fetch_params = {"name": name, "repo": "me/tiny"}
    answer = client.post("/api/v1/jobs", {"method": method, "params": fetch_params}, format="json")
    assert answer.status_code == 201, answer.content
    return str(answer.json()["id"])


def body_of(agent: Agent, outcome: str = "succeeded", folder: str = "dataset", source: Any = SOURCE) -> dict[str, Any]:
    sent = [agent.store(f"{folder}/{path}", data) for path, data in FILES.items()]
    manifest = {"outcome": outcome, "files": sent, "source": source}
    return {**agent.finish_body(outcome, manifest=False), "files": sent, "manifest": manifest}


def finish(agent: Agent, outcome: str = "succeeded", **reported: Any) -> Any:
    return agent.post("finish", body_of(agent, outcome, **reported))


@pytest.fixture
def agent(user: APIClient, host: Host) -> Agent:
    submit(user)
    claimed = host.claim()
    claimed.start()
    return claimed


def state(client: APIClient, agent: Agent) -> tuple[str, str | None]:
    job = client.get(f"/api/v1/jobs/{agent.job}").json()
    return job["state"], job["reason"] and job["reason"]["detail"]


def test_a_fetched_dataset_is_checked_and_records_its_source(user: APIClient, agent: Agent) -> None:
    assert finish(agent).json()["outcome"] == "succeeded"
    version = DatasetVersion.objects.get()
    assert (version.state, version.key) == ("checking", f"jobs/{agent.job}/1/dataset")
    assert versions_check() == 1
    version.refresh_from_db()
    assert version.state == "ready"
    assert version.details["source"] == {**SOURCE, "job": agent.job}
    assert version.details["num_images"] == 1
    events = user.get(f"/api/v1/jobs/{agent.job}/events").json()["results"]
    (reported,) = [event["data"] for event in events if event["kind"] == "version"]
    assert (reported["kind"], reported["name"], reported["version"], reported["source"]["commit"]) == (
        "datasets",
        "tiny",
        1,
        COMMIT,
    )
    assert Audit.objects.filter(kind="version_created", actor="user:admin-of-default").exists()
    assert user.get("/api/v1/datasets/tiny").json()["num_files"] == 2


def test_the_same_content_again_is_the_same_version(user: APIClient, host: Host, agent: Agent) -> None:
    finish(agent)
    versions_check()
    submit(user)
    again = host.claim()
    assert finish(again).json()["outcome"] == "succeeded"
    assert DatasetVersion.objects.count() == 1


def test_a_finish_that_is_sent_twice_makes_one_version_and_one_event(user: APIClient, agent: Agent) -> None:
    body = body_of(agent)
    assert [agent.post("finish", body).status_code for _ in range(2)] == [200, 200]
    assert DatasetVersion.objects.count() == 1
    events = user.get(f"/api/v1/jobs/{agent.job}/events").json()["results"]
    assert [event["kind"] for event in events].count("version") == 1


def test_a_version_is_added_to_the_existing_record(user: APIClient, agent: Agent) -> None:
    user.post("/api/v1/datasets", {"name": "tiny"}, format="json")
    finish(agent)
    assert Dataset.objects.count() == 1


def test_a_fetched_model_of_an_unknown_family_is_refused_with_its_reason(user: APIClient, host: Host) -> None:
    submit(user, "fetch_model")
    agent = host.claim()
    assert finish(agent, folder="model").json()["outcome"] == "succeeded"
    assert versions_check() == 1
    version = PretrainedModelVersion.objects.get()
    assert version.state == "refused" and "model_index.json" in str(version.reason)


@pytest.fixture
def both(world: World, user: APIClient, host: Host, monkeypatch: pytest.MonkeyPatch) -> Agent:
    """An attempt of a job that leaves an adaptor and a base model."""
    monkeypatch.setattr(params_class("image_lora"), "products", lambda _: ("adaptor", "model"))
    assert user.post("/api/v1/jobs", world.request, format="json").status_code == 201
    agent = host.claim()
    agent.start()
    return agent


def test_a_job_may_leave_an_adaptor_and_the_model_that_it_is_fused_into(user: APIClient, both: Agent) -> None:
    adaptor, model = both.store("adaptor/weights", b"w"), both.store("model/model_index.json", b"{}")
    both_files = {"outcome": "succeeded", "files": [adaptor, model]}
    body = {**both.finish_body("succeeded", manifest=False), "files": [adaptor, model], "manifest": both_files}
    assert both.post("finish", body).json()["outcome"] == "succeeded"
    assert user.get("/api/v1/adaptors/shapes").json()["version"] == 1
    version = PretrainedModelVersion.objects.get(record__name="shapes")
    source = {"method": "image_lora", "job": both.job, "model": ["base@1"], "datasets": ["shapes@1"]}
    assert (version.state, version.details["source"]) == ("checking", source)


@pytest.mark.usefixtures("world")
def test_an_imported_model_records_its_file_and_repository(user: APIClient, host: Host) -> None:
    params = {"name": "new", "repo": "me/tiny"}
    request = {"method": "import_model", "params": params, "dataset": "shapes", "resources": {"accelerators": 0}}
    assert user.post("/api/v1/jobs", request, format="json").status_code == 201
    agent = host.claim()
    agent.start()
    assert finish(agent, folder="model").json()["outcome"] == "succeeded"
    version = PretrainedModelVersion.objects.get(record__name="new")
    source = {"method": "import_model", "job": agent.job, "datasets": ["shapes@1"]}
    assert version.details["source"] == {**SOURCE, **source}


def test_a_job_that_owes_two_things_and_sends_one_has_failed(user: APIClient, both: Agent) -> None:
    assert both.finish("succeeded").json()["outcome"] == "failed"
    assert state(user, both) == ("failed", "there is no file below model/")
    assert not user.get("/api/v1/adaptors").json()["results"]


def test_a_stopped_job_leaves_a_partial_adaptor_and_no_model(user: APIClient, both: Agent) -> None:
    user.post(f"/api/v1/jobs/{both.job}/cancel")
    assert both.finish("stopped").json()["outcome"] == "stopped"
    assert user.get("/api/v1/adaptors/shapes").json()["partial"] is True
    assert not PretrainedModelVersion.objects.filter(record__name="shapes").exists()


@pytest.mark.parametrize(
    "source", [None, {}, {"commit": "main"}, {"commit": COMMIT + "0"}, "x", {"commit": None}, {"commit": [COMMIT]}]
)
def test_a_manifest_without_the_commit_is_a_failure(user: APIClient, agent: Agent, source: Any) -> None:
    assert finish(agent, source=source).json()["outcome"] == "failed"
    claimed, detail = state(user, agent)
    assert claimed == "failed" and "source.commit" in str(detail)
    assert not Dataset.objects.exists()


def test_files_elsewhere_are_no_dataset(user: APIClient, agent: Agent) -> None:
    assert finish(agent, folder="model").json()["outcome"] == "failed"
    assert state(user, agent) == ("failed", "there is no file below dataset/")


def test_a_cancelled_fetch_leaves_no_version(user: APIClient, agent: Agent) -> None:
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    assert finish(agent, "stopped").json()["outcome"] == "stopped"
    assert not DatasetVersion.objects.exists()


def test_a_job_whose_files_a_version_is_cannot_be_deleted(user: APIClient, agent: Agent) -> None:
    finish(agent)
    versions_check()
    answer = user.delete(f"/api/v1/jobs/{agent.job}")
    assert (answer.status_code, answer.json()["fields"]) == (409, {"versions": ["tiny@1"]})
    assert user.delete("/api/v1/datasets/tiny@1").status_code == 204
    assert user.delete(f"/api/v1/jobs/{agent.job}").status_code == 204
