"""Between worker and API stand gateways: what they answer ends nothing, and what they do not carry is made smaller."""

import json
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import pytest
from rest_framework.test import APIClient

from api.jobs.models import Attempt, Job
from tests.api.host import Host
from tests.api.live_attempt import Live, answer_of, live, pause
from tests.api.world import World
from trainers.contract.events import Event, Step, Warning_
from worker.attempt.heartbeat import Heartbeat
from worker.errors import UnreachableError
from worker.host.registration import Registration

pytestmark = pytest.mark.django_db(transaction=True)
ENVELOPE = json.dumps({"code": "attempt_ended", "message": "not of our API", "hint": "", "fields": {}})
GATEWAYS = {
    "404 page": answer_of(404, "<h1>404 Not Found</h1>"),
    "401 page": answer_of(401, "login first"),
    "410 page": answer_of(410, "gone"),
    "400 JSON": answer_of(400, "{}", "application/json"),
    "410 in our shape": answer_of(410, ENVELOPE, "application/json"),
    "302": answer_of(302, ""),
    "200 portal": answer_of(200, "<h1>accept the terms</h1>"),
    "200 JSON": answer_of(200, "{}", "application/json"),
    "204": b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n",
}


@pytest.fixture
def job(world: World, user: APIClient) -> str:
    job_id: str = user.post("/api/v1/jobs", world.request, format="json").json()["id"]
    return job_id


def step(number: int, value: float = 0.5, **more: Any) -> Event:
    step_data = {"total": 10, "epoch": 0.0, "metrics": {"loss": value}, "per_second": 1.0, "unit": "images"}
    data = Step.model_validate({"step": number, **step_data, "peak_memory_bytes": 1, "eta_seconds": 1.0, **more})
    return Event(seq=number, time=time.time(), data=data)


def send(scene: Live, events: list[Event]) -> None:
    """All of them, as at the end of an attempt."""
    sender = scene.sender()
    sender._sent_events = 1  # `started` came before
    for event in events:
        sender.add(event, None)
    ended = threading.Event()
    ended.set()
    sender.run(ended, pause)


def curve(user: APIClient, job: str) -> list[int]:
    series = user.get(f"/api/v1/jobs/{job}/metrics?name=loss").json()["series"]
    return [number for number, _ in series.get("loss", [])]


def warnings_of(user: APIClient, job: str) -> list[str]:
    events = user.get(f"/api/v1/jobs/{job}/events").json()["results"]
    return [event["data"]["message"] for event in events if event["kind"] == "warning"]


@pytest.mark.usefixtures("job")
def test_what_a_gateway_answers_ends_nothing(host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        registration = Registration(scene.api, worker=host.worker, boot=host.boot_id, description=_description())
        finish = scene.agent.finish_body("succeeded")
        scene.put(finish)
        calls = {
            "heartbeat": lambda: scene.attempt_api.post("heartbeat", {"fence": scene.agent.fence, "progress_seq": 1}),
            "log": lambda: scene.attempt_api.log(0, b"line\n"),
            "uploads": lambda: scene.attempt_api.post("uploads", {"files": finish["files"]}),
            "claims": lambda: scene.api.post(
                "claims", {**host.who(), "claim_id": str(uuid.uuid4()), "pools": ["default"]}
            ),
        }
        for name, answer in GATEWAYS.items():
            scene.proxy.rule(b"/internal/", "answer", answer)
            for call in calls.values():
                with pytest.raises(UnreachableError):
                    call()
            assert registration.hello([]) is None, name
            assert not scene.outbox.deliver(scene.agent.id), name
            scene.proxy.heal()
        assert not scene.lease.refused and Attempt.objects.get().ended_at is None
        assert registration.hello([]) is not None
        assert scene.deliver() == 1
    assert (Job.objects.get().state, Attempt.objects.count()) == ("succeeded", 1)


@pytest.mark.usefixtures("job")
def test_our_own_word_is_final(host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        assert scene.agent.finish("failed").status_code == 200
        beat = Heartbeat(
            scene.attempt_api,
            scene.lease,
            fence=scene.agent.fence,
            interval_seconds=1,
            progress_seq=int,
            on_answer=print,
        )
        assert beat.beat() == 0
        assert "fenced" in scene.lease.refused


def test_an_event_that_is_refused_takes_no_other_with_it(job: str, user: APIClient, host: Host, tmp_path: Path) -> None:
    with live(host, tmp_path) as scene:
        odd = step(9).model_copy(update={"data": step(9).data.model_copy(update={"step": 2**40})})
        send(scene, [step(1), step(2), odd, step(3), step(4)])
    assert curve(user, job) == [1, 2, 3, 4]
    (warning,) = warnings_of(user, job)
    assert warning.startswith("An event of kind step was dropped because the API refuses it: 400 invalid")


@pytest.mark.parametrize("kind", ["resets", "413 page"])
def test_a_gateway_that_carries_no_large_body_gets_small_ones(
    kind: str, job: str, user: APIClient, host: Host, tmp_path: Path
) -> None:
    with live(host, tmp_path) as scene:
        large = scene.proxy.rule(b"/events", "reset_large")
        if kind == "413 page":
            large.action, large.answer = "answer_large", answer_of(413, "<h1>Request Entity Too Large</h1>")
        scene.proxy.rule(b"/log", "reset_large")
        (tmp_path / "log").write_bytes(b"a line of the log\n" * 10_000)
        send(scene, [step(number) for number in range(1, 301)])
        assert large.hits >= 1
    assert curve(user, job) == list(range(1, 301))
    assert warnings_of(user, job) == []
    assert Attempt.objects.get().log_bytes == 180_000


def test_an_event_that_never_gets_through_is_left_out_while_the_api_answers(
    job: str, user: APIClient, host: Host, tmp_path: Path
) -> None:
    with live(host, tmp_path) as scene:
        scene.proxy.rule(b"/events", "reset_large")
        heartbeat = {"fence": scene.agent.fence, "progress_seq": 1}

        def pause_and_beat(_: float) -> None:
            scene.attempt_api.post("heartbeat", heartbeat)

        sender = scene.sender()
        sender._sent_events = 1
        sender.add(step(1), None)
        sender.add(Event(seq=2, time=1.0, data=Warning_(message="x" * 40_000)), None)
        sender.add(step(2), None)
        ended = threading.Event()
        ended.set()
        sender.run(ended, pause_and_beat)
    assert curve(user, job) == [1, 2]
    assert [message[:37] for message in warnings_of(user, job)] == ["An event of kind warning was dropped "]


def _description() -> dict[str, Any]:
    return {"host": "h", "pools": ["default"], "slots": 1, "accelerators": [], "labels": {}}
