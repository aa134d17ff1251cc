"""Worker and API of different releases: versions are named, unknown fields ignored, and a refusal is a sentence."""

import uuid
from typing import Any

import pytest
import structlog.testing
from rest_framework.test import APIClient

from foundation import protocol
from tests.api.host import Host, event
from tests.api.world import World
from tests.worker.fake_api import WORKER_TOKEN as WORKER
from tests.worker.fake_api import fake_api
from worker.client.api import Api
from worker.host.claims import Claimer, UnknownClaimError
from worker.host.registration import Registration

NEWER = {"of_a_newer_release": {"x": 1}}


@pytest.mark.django_db
def test_hello_names_the_protocol_on_both_sides(host: Host) -> None:
    answer = host.hello(protocol=protocol.PROTOCOL).json()
    assert (answer["protocol"], answer["oldest_protocol"]) == (protocol.PROTOCOL, protocol.OLDEST_WORKER)


@pytest.mark.django_db
def test_a_worker_that_is_too_old_gets_a_sentence(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "OLDEST_WORKER", 2)
    answer = host.hello()
    assert (answer.status_code, answer.json()["code"]) == (400, "worker_too_old")
    assert "speaks protocol 1; this API needs 2 or newer" in answer.json()["message"]


@pytest.mark.django_db
def test_the_api_ignores_what_a_newer_worker_adds(world: World, user: APIClient, host: Host) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    assert host.hello(protocol=99, **NEWER).status_code == 200
    agent = host.claim(**NEWER)
    assert agent.heartbeat(**NEWER).status_code == 200
    started = event(1, "started", total=10, step=0, **NEWER)
    assert agent.post("events", {"first_seq": 1, "events": [{**started, **NEWER}], **NEWER}).json() == {"next_seq": 2}
    body = agent.finish_body("failed", reason=_reason_of_a_newer_release())
    assert agent.post("finish", {**body, **NEWER}).json()["reason"]["code"] == "internal"


def _reason_of_a_newer_release() -> dict[str, Any]:
    return {"code": "moon_phase", "message": "the moon", "hint": "wait", "retry_helps": False, **NEWER}


def test_a_worker_reports_that_the_api_is_too_old() -> None:
    with fake_api() as api, structlog.testing.capture_logs() as logs:
        api.protocol = 1
        registration = Registration(Api(api.url, WORKER), worker="w", boot="b", description={})
        assert registration.hello([]) is None and not registration.is_registered
        assert "this worker (protocol 2) needs 2 or newer; update the API" in logs[0]["error"]
        api.protocol = 3
        assert registration.hello([]) is not None


def test_a_claim_of_an_unknown_shape_names_the_attempt(tmp_path: Any) -> None:
    with fake_api() as api:
        api.hello({"worker": "w"})
        api.add_job()
        api.queue[0]["spec"] = "of another shape"
        claimer = Claimer(Api(api.url, WORKER), tmp_path / "claim-id")
        with pytest.raises(UnknownClaimError) as error:
            claimer.claim({"worker": str(uuid.uuid4()), "free_accelerators": []})
        assert error.value.attempt is not None and error.value.attempt.id == api.only().id
