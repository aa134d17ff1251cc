"""The way of a job from its request to its result, over HTTP."""

import pytest
from rest_framework.test import APIClient

from api.audit.models import Audit
from api.catalog.models import Adaptor
from api.jobs.models import Job
from tests.api.host import Host, event, step_event
from tests.api.world import World

pytestmark = pytest.mark.django_db


def test_a_job_goes_from_request_to_adaptor(world: World, user: APIClient, host: Host) -> None:
    response = user.post("/api/v1/jobs", world.request, format="json")
    assert response.status_code == 201, response.content
    job = response.json()
    assert (job["state"], job["params"]["lora_r"], job["inputs"]["dataset"]["name"]) == ("queued", 8, "shapes@1")
    agent = host.claim()
    assert agent.claim["spec"]["params"]["adaptor_name"] == "shapes"
    assert sorted(agent.claim["inputs"]) == ["dataset", "model"]
    assert agent.claim["inputs"]["dataset"]["files"][0]["url"].startswith("http://testserver/storage/")
    assert user.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "claimed"
    agent.start()
    assert user.get(f"/api/v1/jobs/{job['id']}").json()["state"] == "running"
    assert agent.events(step_event(2, 1, loss=0.7), step_event(3, 2, loss=0.6)).json() == {"next_seq": 4}
    assert agent.events(event(4, "finished", outcome="succeeded", step=10)).status_code == 200
    ended = agent.finish()
    assert (ended.status_code, ended.json()["outcome"]) == (200, "succeeded"), ended.content
    shown = user.get(f"/api/v1/jobs/{job['id'][:8]}").json()
    assert (shown["state"], shown["adaptor"]) == ("succeeded", {"name": "shapes", "version": 1, "partial": False})
    assert shown["progress"]["step"] == 2
    assert shown["attempts"][0]["outcome"] == "succeeded"
    assert user.get(f"/api/v1/jobs/{job['id']}/metrics?name=loss").json() == {"series": {"loss": [[1, 0.7], [2, 0.6]]}}
    kinds = [one["kind"] for one in user.get(f"/api/v1/jobs/{job['id']}/events").json()["results"]]
    assert kinds == ["state", "state", "started", "state", "finished", "state"]
    assert Adaptor.objects.get().key == f"jobs/{job['id']}/1/adaptor"
    kinds = list(Audit.objects.filter(object=f"job:{job['id']}").order_by("id").values_list("kind", flat=True))
    assert kinds == ["job_created", "job_claimed", "job_running", "job_succeeded"]


def test_the_same_idempotency_key_returns_the_same_job(world: World, user: APIClient) -> None:
    key = {"Idempotency-Key": "once"}
    first = user.post("/api/v1/jobs", world.request, format="json", headers=key)
    again = user.post("/api/v1/jobs", world.request, format="json", headers=key)
    other = user.post("/api/v1/jobs", {**world.request, "priority": 5}, format="json", headers=key)
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    assert Job.objects.count() == 1


def test_a_stranger_does_not_see_the_job(world: World, user: APIClient, stranger: APIClient) -> None:
    job = user.post("/api/v1/jobs", world.request, format="json").json()
    for path in ("", "/events", "/log", "/metrics", "/samples", "/artifacts"):
        assert stranger.get(f"/api/v1/jobs/{job['id']}{path}").status_code == 404
    for verb in ("cancel", "pause", "resume"):
        assert stranger.post(f"/api/v1/jobs/{job['id']}/{verb}").status_code == 404
    assert stranger.get("/api/v1/jobs").json() == {"results": [], "next": None}


def test_wrong_parameters_are_named_by_their_path(world: World, user: APIClient) -> None:
    params = {**world.request["params"], "lora_r": 2, "no_such": 1}
    answer = user.post("/api/v1/jobs", {**world.request, "params": params}, format="json")
    assert answer.status_code == 400
    body = answer.json()
    assert set(body) == {"code", "message", "hint", "fields"}
    assert body["fields"] == {
        "params.lora_r": ["input should be greater than or equal to 4, got 2"],
        "params.no_such": ["is not known here; remove it"],
    }
    assert Job.objects.count() == 0


def test_an_unknown_method_is_refused_with_the_list_of_methods(world: World, user: APIClient) -> None:
    answer = user.post("/api/v1/jobs", {**world.request, "method": "magic"}, format="json").json()
    assert "image_lora" in answer["fields"]["method"][0]


def test_a_missing_dataset_is_a_400_that_names_it(world: World, user: APIClient) -> None:
    answer = user.post("/api/v1/jobs", {**world.request, "dataset": "nothing"}, format="json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["dataset"])


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(("name", "existing"), [("a.png", 201), ("./a.png", 201), ("b.png", 400)])
def test_an_image_that_the_dataset_lacks_is_refused_before_a_worker_is_needed(
    user: APIClient, name: str, existing: int
) -> None:
    request = {"method": "sample_image", "model": "base", "dataset": "shapes", "resources": {"accelerators": 0}}
    body = {**request, "params": {"prompt": "a dog", "input_image": name}}
    answer = user.post("/api/v1/jobs", body, format="json")
    verdict = user.post("/api/v1/templates/validate", {"name": "x", **body}, format="json").json()
    assert (answer.status_code, verdict["valid"]) == (existing, existing == 201), answer.content
    if existing == 400:
        messages = ["shapes@1 has no file 'b.png'; it has a.png, metadata.jsonl"]
        assert answer.json()["fields"] == verdict["fields"] == {"params.input_image": messages}
        assert Job.objects.count() == 0
        return
    again = user.post(f"/api/v1/jobs/{answer.json()['id']}/rerun", {"params": {"input_image": "b.png"}}, format="json")
    assert again.json()["fields"] == {
        "params.input_image": ["shapes@1 has no file 'b.png'; it has a.png, metadata.jsonl"]
    }


def test_lists_filter_page_and_ask_a_bounded_number_of_queries(
    world: World, user: APIClient, django_assert_max_num_queries: object
) -> None:
    for number in range(5):
        user.post("/api/v1/jobs", {**world.request, "name": f"job {number}"}, format="json")
    with django_assert_max_num_queries(13):  # type: ignore[operator]  # pytest-django's fixture
        listed = user.get("/api/v1/jobs?limit=2").json()
    assert [job["name"] for job in listed["results"]] == ["job 4", "job 3"]
    following = user.get(listed["next"]).json()
    assert [job["name"] for job in following["results"]] == ["job 2", "job 1"]
    assert [job["name"] for job in user.get("/api/v1/jobs?search=job 1").json()["results"]] == ["job 1"]
    assert user.get("/api/v1/jobs?state=running,failed").json()["results"] == []
    assert user.get("/api/v1/jobs?state=nonsense").status_code == 400


def test_resources_default_to_an_accelerator_where_the_pool_has_one(world: World, user: APIClient, host: Host) -> None:
    request = {key: value for key, value in world.request.items() if key != "resources"}
    assert user.post("/api/v1/jobs", request, format="json").json()["resources"]["accelerators"] == 0
    host.hello(accelerators=2)
    assert user.post("/api/v1/jobs", request, format="json").json()["resources"]["accelerators"] == 1


@pytest.mark.usefixtures("host")
def test_a_waiting_job_shows_its_reason(world: World, user: APIClient) -> None:
    other = user.post("/api/v1/jobs", {**world.request, "pool": "elsewhere"}, format="json").json()
    assert "No worker serves the pool 'elsewhere'" in other["waiting"]
    big = {**world.request, "resources": {"accelerators": 4, "strategy": "ddp"}}
    assert "needs 4 accelerators" in user.post("/api/v1/jobs", big, format="json").json()["waiting"]
    assert user.post("/api/v1/jobs", world.request, format="json").json()["waiting"] is not None
