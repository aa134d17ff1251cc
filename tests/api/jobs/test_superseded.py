"""A job whose attempt was lost does some steps twice: events, samples and the history show them once."""

from typing import Any

import pytest
from rest_framework.test import APIClient

from api.audit.clock import now
from api.jobs.models import Attempt, Job
from api.jobs.services.attempt_lifecycle import attempt_end
from api.jobs.states import Outcome
from api.jobs.streams.stream import SUPERSEDED, news_of
from tests.api.host import Agent, Host, event
from tests.api.world import World

pytestmark = pytest.mark.django_db


def sample(agent: Agent, seq: int, step: int) -> None:
    path = f"samples/step-{step:08d}-0.png"
    entry = agent.store(path, b"image")
    assert agent.events(event(seq, "sample", step=step, path=path)).status_code == 200
    body = {"kind": "sample", "step": step, "path": path, "files": [entry], "details": {}}
    assert agent.post("artifacts", body).status_code == 200


def lose(agent: Agent) -> None:
    attempt = Attempt.objects.get(pk=agent.id)
    assert attempt_end(job=attempt.job, attempt=attempt, outcome=Outcome.LOST, reason=None, by="test", at=now())


def steps_of(user: APIClient, job: str, kind: str) -> list[tuple[int, int]]:
    """(n of the attempt, step) of each event of that kind."""
    events = user.get(f"/api/v1/jobs/{job}/events").json()["results"]
    return [(one["attempt"], one["data"]["step"]) for one in events if one["kind"] == kind]


@pytest.fixture
def rerun(world: World, user: APIClient, host: Host) -> Agent:
    """Claimed again after an attempt that was lost at its very end; its checkpoint is of step 5."""
    user.post("/api/v1/jobs", world.request, format="json")
    first = host.claim()
    first.start()
    sample(first, 2, 5)
    assert first.checkpoint(5).status_code == 200
    sample(first, 3, 10)
    first.events(event(4, "finished", outcome="succeeded", step=10))
    lose(first)
    return host.claim()


def test_nothing_is_hidden_before_the_next_attempt_does_something(user: APIClient, rerun: Agent) -> None:
    assert steps_of(user, rerun.job, "sample") == [(1, 5), (1, 10)]
    assert steps_of(user, rerun.job, "finished") == [(1, 10)]


def test_what_was_done_again_is_shown_once(user: APIClient, rerun: Agent) -> None:
    rerun.start(step=5)
    assert steps_of(user, rerun.job, "sample") == [(1, 5)]
    sample(rerun, 2, 10)
    rerun.events(event(3, "finished", outcome="succeeded", step=10))
    assert rerun.finish().status_code == 200
    assert steps_of(user, rerun.job, "sample") == [(1, 5), (2, 10)]
    assert steps_of(user, rerun.job, "finished") == [(2, 10)]
    assert steps_of(user, rerun.job, "artifact") == [(1, 5), (1, 5), (2, 10)]
    rows = user.get(f"/api/v1/jobs/{rerun.job}/samples").json()["results"]
    assert [row["step"] for row in rows] == [5, 10]
    rows = user.get(f"/api/v1/jobs/{rerun.job}/artifacts?kind=sample&attempt=1").json()["results"]
    assert [row["step"] for row in rows] == [5, 10], "who asks for an attempt gets all of it"
    assert len(user.get(f"/api/v1/jobs/{rerun.job}/artifacts?kind=checkpoint").json()["results"]) == 1


@pytest.mark.django_db(transaction=True)
def test_a_stream_shows_it_once_and_still_ends(rerun: Agent) -> None:
    rerun.start(step=5)
    sample(rerun, 2, 10)
    rerun.events(event(3, "finished", outcome="succeeded", step=10))
    rerun.finish()
    job = Job.objects.get()
    news = news_of({job.pk: 0})[job.pk]
    shown = [message for message in news.events if message["kind"] != SUPERSEDED]
    assert [(one["attempt"], one["data"]["step"]) for one in shown if one["kind"] == "sample"] == [(1, 5), (2, 10)]
    assert [one["attempt"] for one in shown if one["kind"] == "finished"] == [2]
    assert news.ended and news.events[-1]["seq"] == job.event_seq


def test_a_sampling_that_began_again_shows_each_image_once(user: APIClient, host: Host, world: World) -> None:
    assert world
    request: dict[str, Any] = {"method": "sample_image", "params": {"prompt": "a cat"}, "model": "base", "adaptors": []}
    assert user.post("/api/v1/jobs", request, format="json").status_code == 201
    for number in range(2):
        agent = host.claim()
        agent.start()
        entry = agent.store("samples/0.png", b"image")
        body = {"kind": "sample", "step": None, "path": "samples/0.png", "files": [entry], "details": {}}
        assert agent.post("artifacts", body).status_code == 200
        last = agent
        if number == 0:
            lose(agent)
    (shown,) = user.get("/api/v1/samplings").json()["results"]
    (image,) = shown["images"]
    assert f"/{last.fence}/samples/" in image["url"]
