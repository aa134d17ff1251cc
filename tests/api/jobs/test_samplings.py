"""The history of sampling, and the room that a project takes."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.catalog.models import PretrainedModelVersion
from api.jobs.models import Job
from api.jobs.services.log import logs_compact
from tests.api.host import Agent, Host
from tests.api.world import World

pytestmark = pytest.mark.django_db
PATH = "/api/v1/samplings"


@pytest.fixture
def adaptor(user: APIClient, host: Host, world: World) -> str:
    user.post("/api/v1/jobs", world.request, format="json")
    agent = host.claim()
    agent.start()
    assert agent.checkpoint(5).status_code == 200
    assert agent.finish().status_code == 200
    return "shapes@1"


def ask(user: APIClient, prompt: str, adaptors: list[str] | None = None, **params: Any) -> dict[str, Any]:
    request = {"method": "sample_image", "params": {"prompt": prompt, **params}, "model": "base"}
    answer = user.post("/api/v1/jobs", {**request, "adaptors": adaptors or []}, format="json")
    assert answer.status_code == 201, answer.content
    job: dict[str, Any] = answer.json()
    return job


def draw(agent: Agent) -> None:
    entry = agent.store("samples/0.png", b"image")
    body = {"kind": "sample", "step": None, "path": "samples/0.png", "files": [entry], "details": {"seed": 7}}
    assert agent.post("artifacts", body).status_code == 200


def test_a_sampling_shows_its_request_and_its_images(user: APIClient, host: Host, adaptor: str) -> None:
    job = ask(user, "a red cat", [adaptor], seed=7, num_images=2, adaptor_scales=[0.5])
    draw(host.claim())
    (shown,) = user.get(PATH).json()["results"]
    assert (shown["job"], shown["prompt"], shown["seeds"]) == (job["id"], "a red cat", [7, 8])
    assert (shown["adaptors"], shown["model"]) == ([{"name": "shapes@1", "scale": 0.5}], "base@1")
    (image,) = shown["images"]
    assert image["url"].startswith("http://testserver/storage/jobs/")
    assert (image["path"], image["details"]) == ("samples/0.png", {"seed": 7})
    again = user.post(shown["rerun_url"], {"params": {"seed": 9}}, format="json").json()
    assert (again["params"]["seed"], again["params"]["prompt"], again["parent"]) == (9, "a red cat", job["id"])


def test_samplings_are_filtered_by_adaptor_base_and_text(user: APIClient, adaptor: str, stranger: APIClient) -> None:
    plain, adapted = ask(user, "A Red cat"), ask(user, "a 100% blue dog", [adaptor])
    for query, jobs in (
        ("", [adapted, plain]),
        ("search=red", [plain]),
        ("search=100%25 blue", [adapted]),
        ("search=a_b", []),
        ("adaptor=shapes", [adapted]),
        ("adaptor=shapes@2", []),
        ("model=base@1", [adapted, plain]),
        ("model=other", []),
    ):
        results = user.get(f"{PATH}?{query}").json()["results"]
        assert [row["job"] for row in results] == [job["id"] for job in jobs], query
    assert user.get(f"{PATH}?adaptor=../x").status_code == 400
    assert stranger.get(PATH).json()["results"] == []


@pytest.mark.parametrize("count", [10, 100])
def test_lists_ask_as_often_for_many_as_for_few(
    user: APIClient, adaptor: str, count: int, django_assert_max_num_queries: Any
) -> None:
    sampling = Job.objects.get(pk=ask(user, "a cat", [adaptor])["id"])
    fields = {f.attname: getattr(sampling, f.attname) for f in Job._meta.concrete_fields if f.name != "id"}
    Job.objects.bulk_create(Job(**fields) for _ in range(count))
    for path in (PATH, "/api/v1/jobs"):
        with django_assert_max_num_queries(13):
            assert len(user.get(f"{path}?limit=200&search=a").json()["results"]) >= count


def test_usage_adds_up_all_stored_bytes(user: APIClient, adaptor: str, host: Host, stranger: APIClient) -> None:  # noqa: ARG001
    ask(user, "a cat")
    agent = host.claim()
    draw(agent)
    agent.log(0, b"hello\n")
    body = user.get("/api/v1/usage").json()
    assert body["adaptors"] == {"count": 1, "size_bytes": len(b"weights")}
    assert body["artifacts"]["sample"] == {"count": 1, "size_bytes": len(b"image")}
    assert body["artifacts"]["checkpoint"]["count"] == 1
    assert (body["logs"]["size_bytes"], body["jobs"]) == (6, 2)
    assert body["models"]["size_bytes"] == PretrainedModelVersion.objects.get().size_bytes
    parts = [body[part]["size_bytes"] for part in ("datasets", "models", "adaptors", "logs")]
    assert body["total_bytes"] == sum(parts) + sum(part["size_bytes"] for part in body["artifacts"].values())
    logs_compact()
    assert user.get("/api/v1/usage").json()["logs"] == body["logs"]
    assert stranger.get("/api/v1/usage").json()["total_bytes"] == 0
