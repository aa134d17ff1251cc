"""Where a browser that knows nothing gets to, and what the panel offers."""

from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from rest_framework.test import APIClient

from api.jobs.models import Job, Worker
from api.jobs.states import State
from tests.api.host import Host
from tests.api.jobs.test_claim import submit
from tests.api.world import World

pytestmark = pytest.mark.django_db


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(get_user_model().objects.create_superuser("root", password="a long password"))
    return client


def test_the_first_page_says_what_this_is_and_where_to_go(client: Client) -> None:
    answer = client.get("/")
    text = answer.content.decode()
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    for link in ("/admin/", "/api/docs", "/readyz"):
        assert f'href="{link}"' in text
        assert client.get(link).status_code in (200, 302)
    assert "anneal login" in text


def test_the_panel_makes_a_user_with_its_form(root: Client) -> None:
    page = reverse("admin:auth_user_add")
    text = root.get(page).content.decode()
    assert all(f'name="{name}"' in text for name in ("username", "password1", "password2"))
    body = {
        "username": "anna",
        "password1": "a long password",
        "password2": "a long password",
        "usable_password": "true",
    }
    assert root.post(page, body).status_code == 302
    assert get_user_model().objects.get(username="anna").check_password("a long password")


def offered(root: Client, record: Any) -> set[str]:
    """Names of the buttons on the record's page."""
    names = ("cancel", "pause", "requeue", "drain", "undrain", "release")
    page = reverse(f"admin:{record._meta.app_label}_{record._meta.model_name}_change", args=[record.pk])
    text = root.get(page).content.decode()
    return {name for name in names if f"/{record.pk}/{name}" in text}


@pytest.mark.usefixtures("host")
def test_a_page_offers_no_button_that_would_be_refused(root: Client, world: World, user: APIClient) -> None:
    submit(user, world)
    job = Job.objects.get()
    assert offered(root, job) == {"cancel", "pause"}
    states = {
        State.SUCCEEDED: set(),
        State.FAILED: {"requeue"},
        State.CANCELLED: {"requeue"},
        State.RUNNING: {"cancel", "pause"},
    }
    for state, buttons in states.items():
        Job.objects.update(state=state)
        assert offered(root, job) == buttons, state
    assert offered(root, Worker.objects.get()) == {"drain"}
    Worker.objects.update(draining=True)
    assert offered(root, Worker.objects.get()) == {"undrain"}


def test_a_drain_is_undone_and_a_waiting_job_names_its_worker(world: World, user: APIClient, host: Host) -> None:
    path = f"/api/v1/workers/{host.worker}/drain"
    assert user.post(path).json()["draining"] is True
    job = user.post("/api/v1/jobs", world.request, format="json").json()
    assert "testhost is draining" in job["waiting"]
    assert host.heartbeat().json()["draining"] is True
    assert host.claim_post().status_code == 204
    assert user.delete(path).json()["draining"] is False
    assert host.heartbeat().json()["draining"] is False
    assert "draining" not in user.get(f"/api/v1/jobs/{job['id']}").json()["waiting"]
    assert host.claim_post().status_code == 200


def test_the_manifest_of_a_job_has_a_route(world: World, user: APIClient, host: Host) -> None:
    job = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    assert user.get(f"/api/v1/jobs/{job}/manifest").status_code == 404
    agent = host.claim()
    agent.start()
    body = agent.finish_body("succeeded")
    body["manifest"]["evaluation"] = {"nll": 0.5}
    assert agent.post("finish", body).status_code == 200
    answer = user.get(f"/api/v1/jobs/{job}/manifest").json()
    assert (answer["attempt"], answer["manifest"]["evaluation"]) == (1, {"nll": 0.5})


def test_events_are_a_list_like_every_other(
    world: World, user: APIClient, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.jobs.views.results.MAX_EVENTS", 2)
    job = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    host.claim().start()
    seqs, path = [], f"/api/v1/jobs/{job}/events"
    while path:
        page = user.get(path).json()
        seqs += [event["seq"] for event in page["results"]]
        path = page["next"]
    assert seqs == list(range(1, len(seqs) + 1)) and len(seqs) > 2
