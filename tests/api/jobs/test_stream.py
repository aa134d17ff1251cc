"""Live streams from a real server: resumable, ending with the job, holding no database connection."""

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from django.db import InterfaceError, InternalError, OperationalError
from rest_framework.test import APIClient

from api.accounts.models import Token
from api.accounts.tokens import token_revoke
from api.jobs.streams.stream import MAX_PAUSE_SECONDS, PAGE, News, Poller, _pause_seconds
from tests.api.actors import person
from tests.api.host import Agent, Host, event, step_event
from tests.api.jobs.test_claim import submit
from tests.api.live import serving
from tests.api.world import Environ, World
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def server(environ: Environ) -> Iterator[str]:
    environ(stream_poll_seconds=0.05, stream_keep_alive_seconds=0.2)
    with serving() as address:
        yield address


def stream(server: str, user: APIClient, job: str, **headers: str) -> Any:
    headers["Authorization"] = user._credentials["HTTP_AUTHORIZATION"]  # type: ignore[attr-defined]  # not in the stubs
    return httpx.stream("GET", f"{server}/api/v1/jobs/{job}/stream", headers=headers, timeout=PATIENCE_SECONDS)


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
        sent = messages(response.iter_lines())
        assert [next(sent)["data"]["state"] for _ in range(2)] == ["queued", "claimed"]
        agent.start()
        assert [next(sent)["kind"] for _ in range(2)] == ["started", "state"]
        agent.events(step_event(2, 1))
        step = next(sent)
        assert (step["kind"], step["seq"], step["data"]["step"]) == ("step", 4, 1)
        agent.finish()
        rest = list(sent)
    assert [(one["kind"], one["data"].get("state")) for one in rest] == [("state", "succeeded")]


def test_last_event_id_resumes_and_a_step_does_not_move_it(server: str, agent: Agent, user: APIClient) -> None:
    agent.start()
    agent.events(step_event(2, 1), event(3, "warning", message="slow"))
    agent.finish("failed")
    with stream(server, user, agent.job, **{"Last-Event-ID": "3"}) as response:
        lines = list(response.iter_lines())
    assert [one["seq"] for one in messages(iter(lines))] == [4, 5, 6]
    assert [line for line in lines if line.startswith("id:")] == ["id: 4", "id: 5", "id: 6"]


def test_a_browser_that_has_the_last_event_gets_no_content(server: str, agent: Agent, user: APIClient) -> None:
    agent.finish("failed")
    with stream(server, user, agent.job, **{"Last-Event-ID": "3"}) as response:
        assert response.status_code == 204


def test_a_silent_stream_sends_comments(server: str, agent: Agent, user: APIClient) -> None:
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
    received: list[int] = []

    def follow() -> None:
        with stream(server, user, agent.job) as response:
            received.append(len(list(messages(response.iter_lines()))))

    threads = [threading.Thread(target=follow) for _ in range(10)]
    for thread in threads:
        thread.start()
    agent.finish("failed")
    for thread in threads:
        thread.join(timeout=PATIENCE_SECONDS)
    assert received == [3] * 10


def ticketed(server: str, job: str, ticket: str) -> Any:
    return httpx.stream(
        "GET", f"{server}/api/v1/jobs/{job}/stream", params={"ticket": ticket}, timeout=PATIENCE_SECONDS
    )


def test_a_browser_follows_with_a_ticket_in_the_address(server: str, agent: Agent, user: APIClient) -> None:
    answer = user.post(f"/api/v1/jobs/{agent.job}/stream-ticket")
    assert answer.status_code == 200
    agent.finish("failed")
    with ticketed(server, agent.job, answer.json()["ticket"]) as response:
        assert [one["seq"] for one in messages(response.iter_lines())] == [1, 2, 3]


def test_a_ticket_opens_one_job_while_its_token_is_good(
    server: str, agent: Agent, user: APIClient, world: World, environ: Environ
) -> None:
    ticket = user.post(f"/api/v1/jobs/{agent.job}/stream-ticket").json()["ticket"]
    other = submit(user, world)
    for job, presented, status in ((other, ticket, 404), (agent.job, ticket + "x", 401), (agent.job, "x:y", 401)):
        with ticketed(server, job, presented) as response:
            assert response.status_code == status
    token_revoke(token=Token.objects.get(user__username="admin-of-default"))
    with ticketed(server, agent.job, ticket) as response:
        assert (response.status_code, json.loads(response.read())["code"]) == (401, "stream_ticket")
    environ(stream_ticket_seconds=-1)
    with ticketed(server, agent.job, ticket) as response:
        assert "too old" in json.loads(response.read())["message"]


def test_strangers_get_no_ticket_and_readers_do(agent: Agent, stranger: APIClient) -> None:
    path = f"/api/v1/jobs/{agent.job}/stream-ticket"
    assert stranger.post(path).status_code == 404
    assert APIClient().post(path).status_code == 401
    assert person("default", "reader").post(path).status_code == 200


def test_a_follower_that_joins_during_a_poll_misses_nothing() -> None:
    """A look that began before a follower came may know only what is new for the others."""
    job = uuid.uuid4()
    looking, go_on = threading.Event(), threading.Event()

    def look(lowest: dict[uuid.UUID, int]) -> dict[uuid.UUID, News]:
        looking.set()
        assert go_on.wait(PATIENCE_SECONDS)
        sent = [{"seq": seq, "kind": "warning", "time": ""} for seq in range(lowest[job] + 1, 5)]
        return {job: News(sent, ended=True, progress=None)}

    async def follow(poller: Poller, after: int) -> list[int]:
        async with poller.follow(job, after) as follower:
            received = []
            while (message := await follower.messages.get()) is not None:
                received.append(message["seq"])
            return received

    async def both() -> list[list[int]]:
        poller = Poller(look)
        first = asyncio.create_task(follow(poller, 3))
        await asyncio.to_thread(looking.wait, 10)
        second = asyncio.create_task(follow(poller, 0))
        await asyncio.sleep(0)
        go_on.set()
        return list(await asyncio.gather(first, second))

    assert asyncio.run(both()) == [[4], [1, 2, 3, 4]]


def test_a_reader_that_does_not_keep_up_fills_no_memory(environ: Environ) -> None:
    environ(stream_poll_seconds=0.01)
    job = uuid.uuid4()
    looks: list[int] = []

    def look(lowest: dict[uuid.UUID, int]) -> dict[uuid.UUID, News]:
        looks.append(len(lowest))
        after = lowest.get(job, 0)
        sent = [{"seq": seq, "kind": "warning", "time": ""} for seq in range(after + 1, after + PAGE + 1)]
        return {job: News(sent, ended=False, progress={"kind": "step", "step": len(looks)})} if lowest else {}

    async def stuck() -> int:
        poller = Poller(look)
        async with poller.follow(job, 0) as follower:
            while len(looks) < 6:
                await asyncio.sleep(0.01)
            return follower.messages.qsize()

    assert asyncio.run(stuck()) <= PAGE + 1
    assert sum(looks) <= 2


@pytest.mark.parametrize(
    "error",
    [OperationalError("gone"), InterfaceError("connection already closed"), InternalError("aborted"), KeyError("x")],
    ids=lambda error: type(error).__name__,
)
def test_the_poller_outlives_any_failure(environ: Environ, error: Exception) -> None:
    environ(stream_poll_seconds=0.01)
    job = uuid.uuid4()
    looks: list[int] = []

    def look(lowest: dict[uuid.UUID, int]) -> dict[uuid.UUID, News]:
        looks.append(len(lowest))
        if len(looks) < 3:
            raise error
        return {job: News([{"seq": 1, "kind": "warning", "time": ""}], ended=True, progress=None)}

    async def follow() -> Any:
        poller = Poller(look)
        async with poller.follow(job, 0) as follower, asyncio.timeout(10):
            return await follower.messages.get()

    assert asyncio.run(follow())["seq"] == 1


def test_a_message_that_cannot_be_handed_out_ends_only_its_stream(environ: Environ) -> None:
    environ(stream_poll_seconds=0.01)
    bad, good = uuid.uuid4(), uuid.uuid4()
    event = {"seq": 1, "kind": "warning", "time": ""}

    def look(lowest: dict[uuid.UUID, int]) -> dict[uuid.UUID, News]:
        both = {bad: News([{"kind": "no seq"}], False, None), good: News([event], True, None)}
        return {job: news for job, news in both.items() if job in lowest}

    async def follow(poller: Poller, job: uuid.UUID) -> Any:
        async with poller.follow(job, 0) as follower, asyncio.timeout(10):
            return await follower.messages.get()

    async def both() -> list[Any]:
        poller = Poller(look)
        return list(await asyncio.gather(follow(poller, bad), follow(poller, good)))

    assert asyncio.run(both()) == [None, event]


def test_pauses_of_a_failing_poller_grow_to_a_bound(environ: Environ) -> None:
    environ(stream_poll_seconds=0.5)
    assert [_pause_seconds(failures) for failures in (0, 1, 2, 10, 10**6)] == [0.5, 1, 2, MAX_PAUSE_SECONDS, 5]
