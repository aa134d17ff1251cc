"""Adaptors: made by finished attempts, versioned, used by name."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.catalog.adaptors.services import adaptor_publish
from api.catalog.models import Adaptor, DatasetVersion, PretrainedModel, PretrainedModelVersion
from api.catalog.selectors import input_files, resolve_inputs
from api.errors import Problem
from api.jobs.models import Attempt
from tests.api.host import Host
from tests.api.world import World, file_entry, version_make

pytestmark = pytest.mark.django_db
PATH = "/api/v1/adaptors"


@pytest.fixture
def train(user: APIClient, host: Host, world: World) -> Any:
    """Runs a job to its end, as a worker would; gives its id."""

    def run(**params: Any) -> str:
        request = {**world.request, "params": {**world.request["params"], **params}}
        job: str = user.post("/api/v1/jobs", request, format="json").json()["id"]
        agent = host.claim()
        agent.start()
        assert agent.finish().status_code == 200
        return job

    return run


def test_a_finished_job_leaves_an_adaptor(user: APIClient, train: Any) -> None:
    job = train(trigger_word="sks")
    shown = user.get(f"{PATH}/shapes").json()
    assert (shown["name"], shown["version"], shown["job"], shown["partial"]) == ("shapes", 1, job, False)
    assert (shown["method"], shown["base_model"], shown["trigger_word"]) == ("image_lora", "base@1", "sks")
    assert shown["manifest"]["outcome"] == "succeeded"
    entry = file_entry("pytorch_lora_weights.safetensors", b"weights")
    assert [{**file, "url": None} for file in shown["files"]] == [{**entry, "url": None}]
    assert shown["files"][0]["url"].startswith("http://testserver/storage/jobs/")
    listed = user.get(PATH).json()["results"]
    assert [(row["name"], "manifest" in row, "files" in row) for row in listed] == [("shapes", False, False)]


@pytest.mark.parametrize(
    ("params", "facts", "word"),
    [
        ({}, {"trigger_word": "zqx", "prediction_type": "v_prediction"}, "zqx"),
        ({"trigger_word": "sks"}, {"trigger_word": "zqx"}, "sks"),
        ({}, {"trigger_word": ["no", "word"], "prediction_type": {"x": 1}}, ""),
    ],
)
def test_what_the_trainer_found_in_a_file_goes_with_the_adaptor(
    user: APIClient, host: Host, world: World, params: Any, facts: Any, word: str
) -> None:
    request = {**world.request, "params": {**world.request["params"], **params}}
    assert user.post("/api/v1/jobs", request, format="json").status_code == 201
    agent = host.claim()
    body = agent.finish_body("succeeded")
    assert agent.post("finish", {**body, "manifest": {**body["manifest"], **facts}}).status_code == 200
    details = resolve_inputs(world.project, adaptors=["shapes"]).adaptors[0].details
    assert (user.get(f"{PATH}/shapes").json()["trigger_word"], details["trigger_word"]) == (word, word)
    assert details.get("prediction_type") == (facts["prediction_type"] if word == "zqx" else None)


def test_a_second_job_of_the_name_adds_a_version_and_keeps_the_first(user: APIClient, train: Any) -> None:
    first, second, other = train(), train(), train(adaptor_name="other")
    assert user.get(f"{PATH}/shapes").json()["job"] == second
    assert user.get(f"{PATH}/shapes@1").json()["job"] == first
    assert user.get(f"{PATH}/other").json()["job"] == other
    assert user.get(f"{PATH}/shapes@3").status_code == 404
    assert [f"{row['name']}@{row['version']}" for row in user.get(PATH).json()["results"]] == [
        "other@1",
        "shapes@2",
        "shapes@1",
    ]
    assert len(user.get(f"{PATH}?search=oth").json()["results"]) == 1
    assert user.get(f"{PATH}?method=sample_image").json()["results"] == []


def test_publishing_an_attempt_again_gives_the_same_adaptor(train: Any) -> None:
    train()
    attempt = Attempt.objects.get()
    files = [file_entry("adaptor/other.safetensors", b"other")]
    again = adaptor_publish(job=attempt.job, attempt=attempt, manifest={}, files=files, partial=True)
    assert again == Adaptor.objects.get()
    assert not again.partial


def test_an_attempt_without_adaptor_files_publishes_nothing(user: APIClient, host: Host, world: World) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    host.claim()
    attempt = Attempt.objects.get()
    with pytest.raises(Problem, match="no file below adaptor/"):
        adaptor_publish(job=attempt.job, attempt=attempt, manifest={}, files=[file_entry("x/a", b"")], partial=False)
    assert not Adaptor.objects.exists()


def test_an_adaptor_becomes_an_input_that_knows_its_base_and_trigger(project: Project, train: Any) -> None:
    train(trigger_word="sks")
    inputs = resolve_inputs(project, model="base", adaptors=["shapes@1"])
    (ref,) = inputs.adaptors
    assert ref.name == "shapes@1"
    assert inputs.model is not None
    assert ref.details["base_sha256"] == inputs.model.sha256
    assert ref.details["trigger_word"] == "sks"
    (file,) = input_files(ref)
    assert file["key"] == f"{ref.key}/pytorch_lora_weights.safetensors"


def test_an_adaptor_of_another_base_model_is_refused_with_the_name_of_its_own(
    world: World, user: APIClient, train: Any
) -> None:
    train(trigger_word="sks")
    other = PretrainedModel.objects.create(project=world.project, name="other")
    version_make(PretrainedModelVersion, other, "models/2", [file_entry("model_index.json", b"{ }")], family="sd1")
    request = {"method": "sample_image", "model": "other", "adaptors": ["shapes"], "params": {"prompt": "a dog"}}
    answer = user.post("/api/v1/jobs", request, format="json")
    assert answer.status_code == 400 and "shapes@1 was trained on base@1" in answer.json()["message"]


def test_names_resolve_to_the_latest_version_or_the_one_that_is_named(world: World) -> None:
    inputs = resolve_inputs(world.project, dataset="shapes", model="base@1")
    dataset, model = DatasetVersion.objects.get(), PretrainedModelVersion.objects.get()
    assert inputs.dataset is not None and inputs.model is not None
    assert (inputs.dataset.name, inputs.dataset.sha256) == ("shapes@1", dataset.digest)
    assert (inputs.model.key, inputs.model.details) == (model.key, {"family": "sd1"})
    assert [file["key"] for file in input_files(inputs.dataset)] == ["datasets/1/a.png", "datasets/1/metadata.jsonl"]


@pytest.mark.parametrize(
    ("requested", "field"),
    [
        ({"dataset": "none"}, "dataset"),
        ({"dataset": "shapes@2"}, "dataset"),
        ({"model": "shapes"}, "model"),
        ({"adaptors": ["none"]}, "adaptors.0"),
        ({"dataset": "a b"}, "dataset"),
        ({"dataset": "shapes@0"}, "dataset"),
        ({"dataset": "shapes@99999999999"}, "dataset"),
    ],
)
def test_a_reference_to_nothing_names_its_field(world: World, requested: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field) as refused:
        resolve_inputs(world.project, **requested)
    assert isinstance(refused.value, Problem)
    assert list(refused.value.fields) == [field]


def test_a_stranger_sees_and_uses_no_adaptor(stranger: APIClient, train: Any) -> None:
    train()
    assert stranger.get(PATH).json()["results"] == []
    assert stranger.get(f"{PATH}/shapes").status_code == 404
    with pytest.raises(Problem):
        resolve_inputs(Project.objects.get(name="other"), adaptors=["shapes"])


def test_the_number_of_queries_does_not_grow_with_adaptors(
    user: APIClient, train: Any, django_assert_max_num_queries: Any
) -> None:
    for _ in range(3):
        train()
    for path in (PATH, f"{PATH}/shapes"):
        with django_assert_max_num_queries(4):
            user.get(path)


def test_a_bare_name_means_the_newest_whole_version(user: APIClient, train: Any) -> None:
    train()
    train()
    Adaptor.objects.filter(version=2).update(partial=True)
    assert user.get(f"{PATH}/shapes").json()["version"] == 1
    assert user.get(f"{PATH}/shapes@2").json()["partial"]
    Adaptor.objects.update(partial=True)
    assert user.get(f"{PATH}/shapes").json()["version"] == 2


def test_a_job_names_its_whole_adaptor_and_not_the_partial_one_of_a_stop(user: APIClient, train: Any) -> None:
    job = train()
    train()
    Adaptor.objects.filter(version=1).update(partial=True)
    Adaptor.objects.filter(version=2).update(job=job)
    assert user.get(f"/api/v1/jobs/{job}").json()["adaptor"] == {"name": "shapes", "version": 2, "partial": False}
    Adaptor.objects.update(partial=True)
    assert user.get(f"/api/v1/jobs/{job}").json()["adaptor"]["version"] == 2
