"""Request ids and log lines: JSON, with who and how long, and never a token."""

import json
import logging
import re
from collections.abc import Iterator

import pytest
import structlog
from django.test import Client
from rest_framework.test import APIClient

from api.accounts.tokens import USER_PREFIX, token_new
from api.logs import Masker

pytestmark = pytest.mark.django_db


class Lines(logging.Handler):
    """What the formatter of our own handler makes of each record."""

    def __init__(self) -> None:
        super().__init__()
        ours = (handler.formatter for handler in logging.getLogger().handlers)
        self.setFormatter(next(one for one in ours if isinstance(one, structlog.stdlib.ProcessorFormatter)))
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.fixture
def lines() -> Iterator[list[str]]:
    handler = Lines()
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)


def test_a_request_is_one_json_line_with_its_id_user_and_duration(user: APIClient, lines: list[str]) -> None:
    answer = user.get("/api/v1/jobs?search=x", HTTP_X_REQUEST_ID="mine-1")
    assert answer.headers["X-Request-ID"] == "mine-1"
    body = next(line for line in map(json.loads, lines) if line["event"] == "request")
    assert body["request_id"] == "mine-1" and body["user"] == "admin-of-default" and body["duration_ms"] > 0
    assert (body["method"], body["path"], body["status"], body["level"]) == ("GET", "/api/v1/jobs", 200, "info")


def test_an_id_that_could_spoil_a_log_is_replaced(client: Client) -> None:
    for value in ("", "a b", "x" * 65, 'a"b'):
        answer = client.get("/healthz", headers={"X-Request-ID": value} if value else {})
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["X-Request-ID"])


def test_tokens_are_masked_in_every_line(lines: list[str]) -> None:
    plain = token_new(USER_PREFIX)[0]
    logging.getLogger("some.library").warning("refused %s", plain)
    assert plain not in lines[-1] and json.loads(lines[-1])["event"] == "refused ant_***"
    assert Masker()("ant_short") == "ant_short"


def test_a_refused_request_is_one_line_too(user: APIClient, lines: list[str]) -> None:
    assert user.get("/api/v1/jobs?state=nonsense").status_code == 400
    assert user.get("/nothing").status_code == 404
    assert [json.loads(line)["event"] for line in lines] == ["request", "request"]
