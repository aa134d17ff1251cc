"""The typed client against servers that misbehave; docs/client.md shows it at work against a real one."""

import json
from pathlib import Path

import pytest

from cli import client as client_module
from cli.client import connect
from cli.errors import (
    BY_STATUS,
    ApiError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    LoginError,
    NotFoundError,
    ServerError,
    ThrottledError,
    UnreachableError,
)
from tests.cli.small_server import Answer, serving

JOB = {
    "id": "0" * 32,
    "name": "n",
    "method": "image_lora",
    "state": "queued",
    "stopping": False,
    "params": {},
    "progress": None,
    "reason": None,
    "adaptor": None,
    "waiting": None,
    "warnings": [],
    "created": "2026-01-01T00:00:00Z",
    "new_in_a_later_version": 1,
}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidError),
        (401, LoginError),
        (403, ForbiddenError),
        (404, NotFoundError),
        (409, ConflictError),
        (413, InvalidError),
        (418, ApiError),
        (429, ThrottledError),
        (500, ServerError),
        (503, ServerError),
    ],
)
def test_each_status_has_its_class(status: int, kind: type[ApiError]) -> None:
    body = json.dumps({"code": "c", "message": "m", "hint": "h", "fields": {"a": ["b"]}}).encode()
    with serving(lambda *_: (status, {}, body)) as url, connect(url, "ant_x") as anneal:
        with pytest.raises(kind) as raised:
            anneal.me()
        assert type(raised.value) is kind
        assert (raised.value.status, raised.value.fields) == (status, {"a": ["b"]})


@pytest.mark.parametrize(("message", "seconds"), [("7", 7.0), ("", 1.0), ("Wed, 21 Oct 2026 07:28:00 GMT", 1.0)])
def test_too_many_requests_says_how_long_to_wait(message: str, seconds: float) -> None:
    with serving(lambda *_: (429, {"Retry-After": message}, b"{}")) as url, connect(url, "ant_x") as anneal:
        with pytest.raises(ThrottledError) as raised:
            anneal.me()
        assert raised.value.retry_after_seconds == seconds


def test_a_submit_whose_answer_is_lost_is_sent_again_with_the_same_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "SUBMIT_PAUSES_SECONDS", (0.0, 0.0))
    keys: list[str] = []

    def handle(_: str, headers: dict[str, str]) -> Answer:
        keys.append(headers["Idempotency-Key"])
        lost = len(keys) < 3
        return 201, {"Content-Length": "9999"} if lost else {}, json.dumps(JOB).encode()

    with serving(handle) as url, connect(url, "ant_x") as anneal:
        job = anneal.job_submit(template="t")
        other = anneal.job_submit(template="t")
    assert job.id == JOB["id"]
    assert len(set(keys[:3])) == 1, "one key for all tries of one submit"
    assert keys[3] != keys[0], "another submit is another job"
    assert not other.ended


def test_a_refused_submit_is_not_repeated() -> None:
    requests: list[str] = []

    def handle(path: str, _: dict[str, str]) -> Answer:
        requests.append(path)
        return 400, {}, b'{"message": "no"}'

    with serving(handle) as url, connect(url, "ant_x") as anneal, pytest.raises(InvalidError):
        anneal.job_submit(template="t")
    assert len(requests) == 1


def test_nobody_there_is_its_own_error() -> None:
    with connect("http://127.0.0.1:9", "ant_x") as anneal, pytest.raises(UnreachableError):
        anneal.me()


def test_fields_of_a_newer_api_are_preserved() -> None:
    with serving(lambda *_: (200, {}, json.dumps(JOB).encode())) as url, connect(url, "ant_x") as anneal:
        job = anneal.job("00000000")
    assert job.model_extra == {"new_in_a_later_version": 1}


def test_the_page_names_every_error() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "client.md").read_text(encoding="utf-8")
    for status, kind in BY_STATUS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| `{kind.__name__}`"))
        assert str(status) in row
