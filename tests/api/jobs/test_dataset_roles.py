"""Jobs that read several datasets, and one of the class."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.catalog.models import Dataset, DatasetVersion
from tests.api.host import Host
from tests.api.world import World, file_entry, version_make

pytestmark = pytest.mark.django_db
ROLES = {"further_datasets": ["more", "dogs@1"], "class_dataset": "dogs"}


@pytest.fixture
def several(world: World) -> dict[str, Any]:
    """The request of a job that reads `shapes`, then `more` and `dogs`, and `dogs` as its class."""
    for number, name in enumerate(("more", "dogs"), start=2):
        record = Dataset.objects.create(project=world.project, name=name)
        version_make(DatasetVersion, record, f"datasets/{number}", [file_entry("a.png", name.encode())])
    params = {**world.request["params"], "prior_preservation": True, "class_prompt": "a dog"}
    return {**world.request, **ROLES, "params": params}


def test_each_dataset_of_a_job_lands_in_its_place(user: APIClient, several: dict[str, Any], host: Host) -> None:
    created = user.post("/api/v1/jobs", several, format="json")
    assert created.status_code == 201, created.content
    inputs = created.json()["inputs"]
    assert [ref["name"] for ref in inputs["further_datasets"]] == ["more@1", "dogs@1"]
    assert inputs["class_dataset"]["name"] == "dogs@1"
    places = host.claim().claim["inputs"]
    assert {*places} == {"dataset", "datasets/0", "datasets/1", "class_dataset", "model"}
    assert places["datasets/1"]["sha256"] == places["class_dataset"]["sha256"] != places["datasets/0"]["sha256"]


def test_a_rerun_keeps_every_dataset_and_changes_the_one_it_names(user: APIClient, several: dict[str, Any]) -> None:
    job = user.post("/api/v1/jobs", several, format="json").json()
    clone = user.post(f"/api/v1/jobs/{job['id']}/rerun", {}, format="json").json()
    assert clone["inputs"] == job["inputs"]
    changed = user.post(f"/api/v1/jobs/{job['id']}/rerun", {"class_dataset": "more"}, format="json").json()
    assert changed["inputs"]["class_dataset"]["name"] == "more@1"
    assert changed["inputs"]["further_datasets"] == job["inputs"]["further_datasets"]


def test_no_dataset_that_a_job_or_a_template_names_can_be_deleted(user: APIClient, several: dict[str, Any]) -> None:
    template = {key: value for key, value in several.items() if key != "resources"} | {"name": "several"}
    assert user.post("/api/v1/templates", template, format="json").status_code == 201
    assert user.get("/api/v1/datasets/dogs/used-by").json()["templates"] == ["several"]
    refused = user.delete("/api/v1/datasets/more@1")
    assert (refused.status_code, refused.json()["fields"]["templates"]) == (409, ["several"])
    job = user.post("/api/v1/jobs", {"template": "several", "resources": {"accelerators": 0}}, format="json").json()
    assert [ref["name"] for ref in job["inputs"]["further_datasets"]] == ["more@1", "dogs@1"]
    assert user.delete("/api/v1/templates/several").status_code == 204
    for name in ("more", "dogs"):
        refused = user.delete(f"/api/v1/datasets/{name}")
        assert (refused.status_code, "jobs" in refused.json()["fields"]) == (409, True)


def test_a_dataset_that_is_not_there_is_named_by_its_place(user: APIClient, several: dict[str, Any]) -> None:
    answer = user.post("/api/v1/jobs", {**several, "further_datasets": ["more", "none"]}, format="json")
    assert (answer.status_code, [*answer.json()["fields"]]) == (400, ["further_datasets.1"])
    answer = user.post("/api/v1/jobs", {**several, "class_dataset": "none"}, format="json")
    assert (answer.status_code, [*answer.json()["fields"]]) == (400, ["class_dataset"])
