"""A template's preview: a job that shows what its trainer would see."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from tests.api.host import Host
from tests.api.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def template(world: World, user: APIClient) -> str:
    params = {**world.request["params"], "resolution": 64}
    body = {"name": "quick", "method": "image_lora", "params": params, "dataset": "shapes", "model": "base"}
    assert user.post("/api/v1/templates", body, format="json").status_code == 201
    return "quick"


def preview(user: APIClient, ref: str, body: dict[str, Any]) -> Any:
    return user.post(f"/api/v1/templates/{ref}/preview", body, format="json")


def test_a_preview_is_a_job_on_what_the_template_names(user: APIClient, template: str, host: Host) -> None:
    answer = preview(user, template, {"num_rows": 3, "params": {"trigger_word": "zqx"}})
    assert answer.status_code == 201, answer.content
    job = answer.json()
    assert (job["method"], job["resources"]["accelerators"]) == ("inspect_dataset", 0)
    assert job["params"]["template_method"] == "image_lora"
    assert job["params"]["num_rows"] == 3
    shown = job["params"]["template_params"]
    assert (shown["resolution"], shown["trigger_word"]) == (64, "zqx")
    assert {role: job["inputs"][role]["name"] for role in ("dataset", "model")} == {
        "dataset": "shapes@1",
        "model": "base@1",
    }
    assert {*host.claim().claim["inputs"]} == {"dataset", "model"}


def test_parameters_that_training_would_refuse_are_refused(user: APIClient, template: str) -> None:
    answer = preview(user, template, {"params": {"resolution": 3}})
    assert answer.status_code == 400 and "resolution" in answer.json()["message"]
    assert preview(user, template, {"num_rows": 0}).status_code == 400
    assert preview(user, template, {"dataset": "none"}).json()["fields"]["dataset"]


@pytest.mark.usefixtures("world")
def test_only_what_reads_a_dataset_has_a_preview(user: APIClient) -> None:
    body = {"name": "quick", "method": "sample_image", "params": {"prompt": "a dog"}}
    user.post("/api/v1/templates", body, format="json")
    answer = preview(user, "quick", {})
    assert answer.status_code == 400 and "has no preview" in answer.json()["message"]
    assert preview(user, "none", {}).status_code == 404
