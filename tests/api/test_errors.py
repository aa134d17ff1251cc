"""Every error has one shape, and none shows a traceback."""

import pytest
from django.core.management import call_command
from django.db import InterfaceError, OperationalError
from rest_framework.test import APIClient

from api.errors import fields_of, problem_of
from api.urls import handler500
from tests.api.host import Host
from trainers.contract.spec import JobSpec

pytestmark = pytest.mark.django_db
KEYS = {"code", "message", "hint", "fields"}


def test_an_unknown_address_is_a_404_in_the_shape(client: APIClient) -> None:
    for path in ("/nothing", "/api/v1/nothing", "/internal/v1/nothing"):
        answer = client.get(path)
        assert (answer.status_code, set(answer.json()), answer.json()["code"]) == (404, KEYS, "not_found")


def test_a_body_that_is_no_json_is_a_400(user: APIClient) -> None:
    answer = user.post("/api/v1/jobs", "{not json", content_type="application/json")
    assert (answer.status_code, answer.json()["code"], set(answer.json())) == (400, "bad_json", KEYS)


def test_a_body_that_is_no_object_is_a_400(user: APIClient) -> None:
    answer = user.post("/api/v1/jobs", [1], format="json")
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


def test_another_media_type_is_a_415_with_a_hint(user: APIClient) -> None:
    answer = user.post("/api/v1/jobs", "name=x", content_type="application/x-www-form-urlencoded")
    assert (answer.status_code, answer.json()["hint"]) == (415, "Send `Content-Type: application/json`.")


def test_no_token_and_a_wrong_token_are_401(client: APIClient, user: APIClient, host: Host) -> None:
    assert client.get("/api/v1/jobs").status_code == 401
    assert client.get("/api/v1/jobs", headers={"Authorization": "Bearer ant_wrong"}).json().keys() == KEYS
    assert host.client.get("/api/v1/jobs").status_code == 401
    assert user.post("/internal/v1/claims", {}, format="json").status_code == 401


def test_another_method_is_a_405(user: APIClient) -> None:
    assert user.delete("/api/v1/jobs").json()["code"] == "method_not_allowed"


def test_a_fault_of_ours_is_a_500_without_its_cause(user: APIClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr("api.jobs.views.jobs.job_rows", broken)
    user.raise_request_exception = False
    answer = user.get("/api/v1/jobs")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert b"secret detail" not in answer.content
    assert handler500 == "api.errors.server_error"


def test_a_key_error_is_nobodys_fault_but_ours() -> None:
    assert problem_of(KeyError("x")) is None


def test_fields_are_named_by_dotted_path() -> None:
    with pytest.raises(ValueError, match="validation error") as caught:
        JobSpec.model_validate({"name": "", "method": "image_lora", "params": {"adaptor_name": "a", "lora_r": 1}})
    fields = fields_of(caught.value)  # type: ignore[arg-type]  # pydantic's ValidationError
    assert set(fields) == {"name", "params.lora_r"}


def test_health_ready_and_metrics_answer_without_a_token(client: APIClient, host: Host) -> None:
    assert host.heartbeat().status_code == 200
    assert client.get("/healthz").json()["status"] == "ok"
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["database"], ready.json()["storage"]) == (200, "ok", "ok")
    body = client.get("/metrics").content.decode()
    for name in (
        'anneal_jobs{state="queued"} 0.0',
        'anneal_workers{state="live"} 1.0',
        "anneal_claim_latency_seconds_count",
    ):
        assert name in body


def test_migrations_match_the_models() -> None:
    call_command("makemigrations", "--check", "--dry-run", verbosity=0)


@pytest.mark.parametrize("error", [OperationalError("gone"), InterfaceError("closed")])
def test_a_database_that_does_not_answer_is_503(error: Exception) -> None:
    problem = problem_of(error)
    assert problem is not None
    assert (problem.status, problem.code) == (503, "database_unavailable")


def test_ready_says_where_trainers_can_read_the_workers_files(client: APIClient, host: Host) -> None:
    assert host.hello(wall="landlock").status_code == 200
    assert client.get("/readyz").json()["trainers"] == "ok"
    assert host.hello(wall="none").status_code == 200
    ready = client.get("/readyz")
    assert ready.status_code == 200, "a warning: jobs can be taken all the same"
    assert ready.json()["trainers"].startswith("trainers can read the worker's files on 1 of 1 live workers")
