"""Who needs an adaptor, where it came from, and how it goes."""

import threading
from typing import Any

import pytest
from django.db import connection
from rest_framework.test import APIClient

from api.catalog.models import Adaptor, Removal
from api.catalog.removals import removals_sweep
from api.storage import storage
from tests.api.actors import person
from tests.api.host import Host
from tests.api.world import World
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db
PATH = "/api/v1/adaptors"


@pytest.fixture
def train(user: APIClient, host: Host, world: World) -> Any:
    def run(**request: Any) -> dict[str, Any]:
        job: dict[str, Any] = user.post("/api/v1/jobs", {**world.request, **request}, format="json").json()
        agent = host.claim()
        agent.start()
        assert agent.finish().status_code == 200
        return job

    return run


def sampling(user: APIClient, adaptor: str) -> dict[str, Any]:
    request = {"method": "sample_image", "params": {"prompt": "a cat"}, "model": "base", "adaptors": [adaptor]}
    job: dict[str, Any] = user.post("/api/v1/jobs", request, format="json").json()
    return job


def test_an_adaptor_that_a_job_still_needs_stays(user: APIClient, train: Any) -> None:
    train()
    job = sampling(user, "shapes")
    refused = user.delete(f"{PATH}/shapes@1")
    assert (refused.status_code, refused.json()["code"]) == (409, "in_use")
    assert refused.json()["fields"] == {"jobs": [job["id"]], "templates": []}
    user.post(f"/api/v1/jobs/{job['id']}/cancel")
    assert user.delete(f"{PATH}/shapes@1").status_code == 204
    gone = user.post(f"/api/v1/jobs/{job['id']}/resume")
    assert (gone.status_code, gone.json()["code"]) == (409, "input_gone")


def test_an_adaptor_that_a_template_names_stays(user: APIClient, train: Any) -> None:
    train()
    train()
    for name, ref in (("bare", "shapes"), ("exact", "shapes@1")):
        body = {"name": name, "method": "sample_image", "params": {"prompt": "x"}, "model": "base", "adaptors": [ref]}
        assert user.post("/api/v1/templates", body, format="json").status_code == 201
    assert user.delete(f"{PATH}/shapes@1").json()["fields"]["templates"] == ["exact"]
    assert user.delete(f"{PATH}/shapes@2").json()["fields"]["templates"] == ["bare"]
    user.delete("/api/v1/templates/exact")
    assert user.delete(f"{PATH}/shapes@1").status_code == 204


def test_files_are_removed_after_the_commit_and_the_number_is_never_reused(user: APIClient, train: Any) -> None:
    train()
    second = train()
    key = Adaptor.objects.get(version=2).key
    assert user.delete(f"{PATH}/shapes@2").status_code == 204
    assert user.get(f"{PATH}/shapes@2").status_code == 404
    assert user.get(f"/api/v1/jobs/{second['id']}").json()["adaptor"] is None
    assert list(storage().list(f"{key}/"))
    assert removals_sweep() == 1
    assert not list(storage().list(f"{key}/")) and not Removal.objects.exists()
    train()
    assert user.get(f"{PATH}/shapes").json()["version"] == 3


def test_lineage_shows_job_inputs_and_attempts(user: APIClient, train: Any, world: World) -> None:
    body = {key: world.request[key] for key in ("method", "params", "dataset", "model", "resources")}
    user.post("/api/v1/templates", {**body, "name": "fast"}, format="json")
    parent = train(template="fast")
    again = user.post(f"/api/v1/jobs/{parent['id']}/rerun", {}, format="json").json()
    lineage = user.get(f"{PATH}/shapes@1/lineage").json()
    assert (lineage["adaptor"], lineage["template"], lineage["template_exists"]) == ("shapes@1", "fast@1", True)
    assert (lineage["job"]["id"], lineage["parent"], [job["id"] for job in lineage["reruns"]]) == (
        parent["id"],
        None,
        [again["id"]],
    )
    assert [(ref["role"], ref["name"]) for ref in lineage["inputs"]] == [("dataset", "shapes@1"), ("model", "base@1")]
    assert (lineage["base_model"], lineage["attempts"][0]["outcome"]) == ("base@1", "succeeded")
    assert user.post(lineage["rerun_url"], {}, format="json").json()["parent"] == parent["id"]
    user.delete("/api/v1/templates/fast")
    lineage_after = user.get(f"{PATH}/shapes@1/lineage").json()
    assert (lineage_after["template"], lineage_after["template_exists"]) == ("fast@1", False)


def test_inputs_say_who_uses_them(user: APIClient, train: Any, world: World) -> None:
    job = train()
    look = sampling(user, "shapes")
    body = {key: world.request[key] for key in ("method", "params", "dataset", "model")}
    user.post("/api/v1/templates", {**body, "name": "fast"}, format="json")
    dataset = user.get("/api/v1/datasets/shapes/used-by").json()
    assert (dataset["num_jobs"], [one["id"] for one in dataset["jobs"]]) == (1, [job["id"]])
    assert (dataset["templates"], dataset["adaptors"]) == (["fast"], ["shapes@1"])
    assert user.get("/api/v1/models/base@1/used-by").json()["num_jobs"] == 2
    adaptor = user.get(f"{PATH}/shapes/used-by").json()
    assert ([one["id"] for one in adaptor["jobs"]], adaptor["adaptors"]) == ([look["id"]], [])
    assert user.get("/api/v1/datasets/none/used-by").status_code == 404
    jobs = user.get("/api/v1/jobs?adaptor=shapes@1").json()["results"]
    assert {one["id"] for one in jobs} == {job["id"], look["id"]}


def test_a_stranger_reaches_nothing(stranger: APIClient, train: Any) -> None:
    train()
    for path in (f"{PATH}/shapes/zip", f"{PATH}/shapes/lineage", f"{PATH}/shapes/used-by"):
        assert stranger.get(path).status_code == 404
    assert stranger.get("/api/v1/datasets/shapes/used-by").status_code == 404
    assert stranger.patch(f"{PATH}/shapes", {"notes": "x"}, format="json").status_code == 404
    assert stranger.delete(f"{PATH}/shapes").status_code == 404
    assert Adaptor.objects.get().notes == ""


@pytest.mark.django_db(transaction=True)
def test_of_a_delete_and_a_submit_at_once_one_sees_the_other(user: APIClient, train: Any, project: Any) -> None:
    """Either the job has its adaptor, or it was refused: never a job whose input is gone."""
    for round_ in range(1, 5):
        train()
        ref, start = f"shapes@{round_}", threading.Barrier(2)
        outcomes: dict[str, int] = {}

        def delete(ref: str = ref, start: threading.Barrier = start, outcomes: Any = outcomes) -> None:
            start.wait(timeout=PATIENCE_SECONDS)
            outcomes["delete"] = user.delete(f"{PATH}/{ref}").status_code
            connection.close()

        thread = threading.Thread(target=delete)
        thread.start()
        start.wait(timeout=PATIENCE_SECONDS)
        request = {"method": "sample_image", "params": {"prompt": "x"}, "model": "base", "adaptors": [ref]}
        submitted = person(project.name, "writer").post("/api/v1/jobs", request, format="json")
        thread.join(timeout=PATIENCE_SECONDS)
        there = Adaptor.objects.filter(version=round_).exists()
        assert (submitted.status_code == 201) == there, (submitted.status_code, outcomes)
        assert outcomes["delete"] == (409 if there else 204)
        if there:
            user.post(f"/api/v1/jobs/{submitted.json()['id']}/cancel")
