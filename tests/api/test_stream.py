"""Live streams from a real server: resumable, ending with the job, holding no database connection."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rest_framework.test import APIClient

from tests.api.host import Agent, Host, event, step_event
from tests.api.live import serving
from tests.api.test_claim import submit
from tests.api.world import Environ, World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(environ: Environ) -> Iterator[str]:
    environ(stream_poll_seconds=0.05, stream_keep_alive_seconds=0.2)
    with serving() as address:
        yield address


def stream(server: str, user: APIClient, job: str, **headers: str) -> Any:
    headers["Authorization"] = user._credentials["HTTP_AUTHORIZATION"]  # type: ignore[attr-defined]  # not in the stubs
    return httpx.stream("GET", f"{server}/api/v1/jobs/{job}/stream", headers=headers, timeout=10)


def messages(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


@pytest.fixture
def agent(world: World, user: APIClient, host: Host) -> Agent:
    submit(user, world)
    return host.claim()


def test_a_follower_sees_events_as_they_happen_until_the_end(server: str, agent: Agent, user: APIClient) -> None:
    with stream(server, user, agent.job) as response:
        assert response.headers["content-type"] == "text/event-stream"
        told = messages(response.iter_lines())
        assert [next(told)["data"]["state"] for _ in range(2)] == ["queued", "claimed"]
        agent.start()
        assert [next(told)["kind"] for _ in range(2)] == ["started", "state"]
        agent.events(step_event(2, 1))
        step = next(told)
        assert (step["kind"], step["seq"], step["data"]["step"]) == ("step", 4, 1)
        agent.finish()
        rest = list(told)
    assert [(one["kind"], one["data"].get("state")) for one in rest] == [("state", "succeeded")]


def test_last_event_id_resumes_and_a_step_does_not_move_it(server: str, agent: Agent, user: APIClient) -> None:
    agent.start()
    agent.events(step_event(2, 1), event(3, "warning", message="slow"))
    agent.finish("failed")
    with stream(server, user, agent.job, **{"Last-Event-ID": "3"}) as response:
        lines = list(response.iter_lines())
    assert [one["seq"] for one in messages(iter(lines))] == [4, 5, 6]
    assert [line for line in lines if line.startswith("id:")] == ["id: 4", "id: 5", "id: 6"]


def test_a_browser_that_has_the_end_is_told_to_stop(server: str, agent: Agent, user: APIClient) -> None:
    agent.finish("failed")
    with stream(server, user, agent.job, **{"Last-Event-ID": "3"}) as response:
        assert response.status_code == 204


def test_a_silent_stream_says_comments(server: str, agent: Agent, user: APIClient) -> None:
    with stream(server, user, agent.job) as response:
        assert next(line for line in response.iter_lines() if line.startswith(": keep-alive"))


def test_a_resumed_job_streams_past_its_earlier_end(server: str, agent: Agent, user: APIClient) -> None:
    agent.finish("failed")
    user.post(f"/api/v1/jobs/{agent.job}/resume")
    user.post(f"/api/v1/jobs/{agent.job}/cancel")
    with stream(server, user, agent.job) as response:
        states = [one["data"]["state"] for one in messages(response.iter_lines())]
    assert states == ["queued", "claimed", "failed", "queued", "cancelled"]


def test_strangers_and_the_nameless_see_nothing(
    server: str, agent: Agent, user: APIClient, stranger: APIClient
) -> None:
    with stream(server, stranger, agent.job) as response:
        assert (response.status_code, json.loads(response.read())["code"]) == (404, "not_found")
    answer = httpx.get(f"{server}/api/v1/jobs/{agent.job}/stream")
    assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
    with stream(server, user, agent.job, **{"Last-Event-ID": "x"}) as response:
        assert response.status_code == 400


def test_many_streams_are_fed_by_one_poller(server: str, agent: Agent, user: APIClient) -> None:
    found: list[int] = []

    def follow() -> None:
        with stream(server, user, agent.job) as response:
            found.append(len(list(messages(response.iter_lines()))))

    threads = [threading.Thread(target=follow) for _ in range(10)]
    for thread in threads:
        thread.start()
    agent.finish("failed")
    for thread in threads:
        thread.join(timeout=20)
    assert found == [3] * 10
