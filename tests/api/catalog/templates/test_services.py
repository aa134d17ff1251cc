"""Templates: saved whole or not at all, every fault by the name of its field."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.catalog.models import Template
from api.catalog.selectors import template_version
from api.errors import Problem
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/templates"


@pytest.fixture
def body(world: World) -> dict[str, Any]:  # noqa: ARG001 the dataset and model that the template names
    params = {"adaptor_name": "shapes", "learning_rate": 0.001}
    return {"name": "fast", "method": "image_lora", "params": params, "dataset": "shapes", "model": "base@1"}


def test_a_template_is_stored_as_it_was_written(user: APIClient, body: dict[str, Any]) -> None:
    full = {**body, "adaptors": [], "resources": {"accelerators": 1}, "pool": "big", "priority": 5}
    created = user.post(PATH, full, format="json")
    assert created.status_code == 201
    shown = user.get(f"{PATH}/fast").json()
    assert shown == created.json()
    assert {name: shown[name] for name in full} == full
    assert user.get(PATH).json()["results"] == [shown]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"params": {"adaptor_name": "x", "lora_r": 0}}, "params.lora_r"),
        ({"params": {"adaptor_name": "x", "learning_rate": "fast"}}, "params.learning_rate"),
        ({"params": {"adaptor_name": "x", "lora_rank": 4}}, "params.lora_rank"),
        ({"params": {}}, "params.adaptor_name"),
        ({"params": []}, "params"),
        ({"method": "fly"}, "method"),
        ({"dataset": "none"}, "dataset"),
        ({"dataset": "shapes@9"}, "dataset"),
        ({"dataset": "../x"}, "dataset"),
        ({"model": "none"}, "model"),
        ({"adaptors": ["none"]}, "adaptors.0"),
        ({"resources": {"accelerators": -1}}, "resources.accelerators"),
        ({"resources": {"gpus": 1}}, "resources.gpus"),
        ({"priority": "high"}, "priority"),
        ({"name": "a/b"}, "name"),
        ({"name": None}, "name"),
    ],
)
def test_a_fault_is_told_by_its_field_and_nothing_is_saved(
    user: APIClient, body: dict[str, Any], change: dict[str, Any], field: str
) -> None:
    answer = user.post(PATH, {**body, **change}, format="json")
    assert answer.status_code == 400, answer.json()
    assert any(name == field or name.startswith(field) for name in answer.json()["fields"]), answer.json()
    assert not Template.objects.exists()


def test_an_input_without_use_is_refused(user: APIClient, body: dict[str, Any]) -> None:
    answer = user.post(PATH, {**body, "method": "merge", "params": {"name": "x"}}, format="json")
    assert answer.json()["fields"] == {"dataset": ["method merge has no use for it; leave it out"]}


def test_a_taken_name_is_409_and_put_replaces_all(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, {**body, "priority": 5}, format="json")
    assert user.post(PATH, body, format="json").status_code == 409
    changed = user.put(f"{PATH}/fast", {**body, "params": {"adaptor_name": "other"}}, format="json")
    assert changed.status_code == 200
    assert (changed.json()["params"], changed.json()["priority"]) == ({"adaptor_name": "other"}, None)
    assert user.put(f"{PATH}/none", body, format="json").status_code == 404


def test_a_faulty_put_changes_nothing(user: APIClient, body: dict[str, Any]) -> None:
    created = user.post(PATH, body, format="json").json()
    assert user.put(f"{PATH}/fast", {**body, "params": {"lora_r": 0}}, format="json").status_code == 400
    assert user.get(f"{PATH}/fast").json() == created


def test_put_with_another_name_renames(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    user.post(PATH, {**body, "name": "taken"}, format="json")
    assert user.put(f"{PATH}/fast", {**body, "name": "taken"}, format="json").status_code == 409
    assert user.put(f"{PATH}/fast", {**body, "name": "slow"}, format="json").json()["name"] == "slow"
    assert user.get(f"{PATH}/fast").status_code == 404


def test_a_deleted_template_is_gone(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    assert user.delete(f"{PATH}/fast").status_code == 204
    assert user.delete(f"{PATH}/fast").status_code == 404


def test_templates_are_found_by_name_and_method(user: APIClient, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    sampling = {"name": "look", "method": "sample_image", "params": {"prompt": "a cat"}, "model": "base"}
    assert user.post(PATH, sampling, format="json").status_code == 201
    for query, names in (("search=FAS", ["fast"]), ("method=sample_image", ["look"]), ("", ["look", "fast"])):
        assert [row["name"] for row in user.get(f"{PATH}?{query}").json()["results"]] == names


def test_a_stranger_sees_no_template_and_may_not_use_our_inputs(
    user: APIClient, stranger: APIClient, body: dict[str, Any]
) -> None:
    user.post(PATH, body, format="json")
    assert stranger.get(PATH).json()["results"] == []
    for answer in (stranger.get(f"{PATH}/fast"), stranger.delete(f"{PATH}/fast")):
        assert answer.status_code == 404
    assert stranger.put(f"{PATH}/fast", body, format="json").status_code == 404
    assert "dataset" in stranger.post(PATH, body, format="json").json()["fields"]


def test_null_takes_a_parameter_of_the_template_out(user: APIClient, body: dict[str, Any]) -> None:
    """Samples are turned off with all that only they need, which would be refused without them."""
    samples = {"eval_prompt": "a dog", "eval_num_inference_steps": 20, "eval_every_steps": 5}
    user.post(PATH, {**body, "params": {**body["params"], **samples}}, format="json")
    stored = user.post("/api/v1/jobs", {"template": "fast", "params": {"eval_prompt": ""}}, format="json")
    assert stored.status_code == 400 and "eval_num_inference_steps=20 does nothing" in stored.json()["message"]
    quiet = user.post("/api/v1/jobs", {"template": "fast", "params": dict.fromkeys(samples)}, format="json")
    assert quiet.status_code == 201, quiet.content
    params = quiet.json()["params"]
    assert [params[name] for name in (*samples, "learning_rate")] == ["", 50, None, 0.001]


def test_a_job_request_comes_out_of_a_template(user: APIClient, project: Project, body: dict[str, Any]) -> None:
    user.post(PATH, body, format="json")
    version = template_version(project, "fast")
    message = {"name": version.template.name, **version.content}
    assert {name: message[name] for name in body} == body
    with pytest.raises(Problem, match="no template 'none'") as refused:
        template_version(project, "none")
    assert refused.value.status == 404
