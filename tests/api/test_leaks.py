"""No token, secret or traceback in any answer or log: every error path that we know is driven, and all is searched."""

import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver
from rest_framework.test import APIClient

from api.logs import Masker, logging_config
from tests.api.actors import with_token
from tests.api.host import Host
from tests.api.world import Environ, World

pytestmark = pytest.mark.django_db
HUB, PLAIN = "hf_" + "s3cret" * 6, "plain-looking-s3cret-value"
KEY = Fernet.generate_key().decode()
PASSWORD = "db-pass/word"
FORMATTED = ("Traceback (most recent call last)", 'File \\"/', "gAAAAA")
METHODS = ("get", "post", "put", "patch", "delete")
BODIES: tuple[Any, ...] = (
    ("{not json", "application/json"),
    (b"\xff\xfe", "application/json"),
    ("[1]", "application/json"),
    ('"text"', "application/json"),
    ("null", "application/json"),
    ('{"name": 5, "params": [], "files": {}, "value": {}, "kind": 1, "password": []}', "application/json"),
    ('{"name": "../../x", "template": "nope", "upload": "nope", "method": "nope"}', "application/json"),
    ("[" * 5000, "application/json"),
    ("name=x", "application/x-www-form-urlencoded"),
)


class Told:
    """All that was answered and logged."""

    def __init__(self) -> None:
        self.log = io.StringIO()
        self.answers: list[str] = []

    def keep(self, answer: Any) -> Any:
        body = answer.getvalue() if answer.streaming else answer.content
        self.answers.append(f"{answer.status_code} {dict(answer.headers)} {body.decode(errors='replace')}")
        return answer

    def all(self) -> str:
        return "\n".join([*self.answers, self.log.getvalue()])


@pytest.fixture
def reported() -> Iterator[Told]:
    """With the log as the real configuration writes it, into memory."""
    result = Told()
    configured = logging_config(secrets=[PLAIN, PASSWORD])["formatters"]["json"]
    handler = logging.StreamHandler(result.log)
    handler.setFormatter(_made(configured))
    logging.getLogger().addHandler(handler)
    yield result
    logging.getLogger().removeHandler(handler)


def _made(configured: dict[str, Any]) -> logging.Formatter:
    options = {name: value for name, value in configured.items() if name != "()"}
    formatter: logging.Formatter = configured["()"](**options)
    return formatter


def addresses(result: Any = None, prefix: str = "") -> Iterator[str]:
    """Every address of ours, its parameters filled with what is not there."""
    for entry in (result or get_resolver()).url_patterns:
        route = prefix + str(entry.pattern)
        if isinstance(entry, URLResolver):
            yield from addresses(entry, route)
        elif isinstance(entry, URLPattern) and route.startswith(("api/v1/", "internal/v1/")):
            words = [_filled(word) for word in route.split("/")]
            yield "/" + "/".join(words)


def _filled(word: str) -> str:
    if "uuid" in word:
        return "00000000-0000-4000-8000-000000000000"
    return "1" if "int:" in word else "nope" if word.startswith("<") else word


def tokens_of(*clients: APIClient) -> list[str]:
    sent: list[Any] = [vars(client)["_credentials"] for client in clients]
    return [credentials["HTTP_AUTHORIZATION"].split()[1] for credentials in sent]


@pytest.fixture
def secrets(user: APIClient, host: Host, environ: Environ) -> list[str]:
    """All that must never be seen again."""
    environ(secrets_keys=KEY)
    for name, kind, value in (("hub", "hub", HUB), ("odd", "generic", PLAIN)):
        user.put(f"/api/v1/secrets/{name}", {"kind": kind, "value": value}, format="json")
    return [HUB, PLAIN, KEY, settings.SECRET_KEY, PASSWORD, *tokens_of(user, host.client)]


def test_no_answer_and_no_log_line_shows_a_secret_or_a_traceback(
    reported: Told, user: APIClient, host: Host, secrets: list[str], world: World
) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    agent = host.claim()
    clients = [user, host.client, agent.client, APIClient(), with_token("ant_" + "w" * 40), with_token(HUB)]
    for client in clients:
        client.raise_request_exception = False
    paths = sorted(set(addresses()))
    assert len(paths) > 40
    for path in paths:
        if path.endswith(("/stream", "/docs", "/schema")):
            continue
        for client in clients:
            reported.keep(client.get(path))
        for index, method in enumerate(METHODS[1:]):
            body, kind = BODIES[(index + len(path)) % len(BODIES)]
            reported.keep(user.generic(method.upper(), path, body, content_type=kind))
    for body, kind in BODIES:
        for path in ("/api/v1/jobs", "/api/v1/secrets/hub", "/api/v1/auth/login", "/api/v1/templates"):
            reported.keep(user.generic("POST" if "secrets" not in path else "PUT", path, body, content_type=kind))
    _search(reported, [*secrets, *tokens_of(agent.client)])
    assert len(reported.answers) > 500


def _search(reported: Told, secrets: list[str]) -> None:
    everything = reported.all()
    for secret in (*secrets, *FORMATTED):
        place = everything.find(secret)
        assert place < 0, f"{secret[:12]}... in: {everything[max(0, place - 300) : place + 100]}"


def breaks(error: Callable[[str], Exception]) -> Callable[..., Any]:
    """A service that fails with a secret in a local variable and, as far as it has a shape, in its words."""

    def broken(*_: object, **__: object) -> None:
        local_secret = HUB
        raise error(f"cannot speak to the Hub with {local_secret} nor postgres://me:{PASSWORD}@db nor {PLAIN}")

    return broken


@pytest.mark.parametrize("error", [RuntimeError, KeyError, OSError, AssertionError, LookupError])
def test_a_fault_of_ours_tells_its_place_and_no_secret(
    reported: Told, user: APIClient, secrets: list[str], monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    user.raise_request_exception = False
    monkeypatch.setattr("api.jobs.views.jobs.job_rows", breaks(error))
    monkeypatch.setattr("api.accounts.project_views.secret_put", breaks(error))
    answers = [user.get("/api/v1/jobs"), user.put("/api/v1/secrets/x", {"kind": "hub", "value": HUB}, format="json")]
    for answer in answers:
        reported.keep(answer)
        assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    _search(reported, secrets)
    lines = [json.loads(line) for line in reported.log.getvalue().splitlines()]
    (frames, *_) = [line["exception"][0]["frames"] for line in lines if "exception" in line]
    assert any(frame["name"] == "broken" for frame in frames), "who reads the log still finds the place"
    assert "local_secret" not in reported.log.getvalue().replace("{local_secret}", "")


def test_a_chain_of_causes_hides_the_same_things(reported: Told) -> None:
    try:
        try:
            breaks(RuntimeError)()
        except RuntimeError as error:
            raise ValueError(f"first {PLAIN}") from error
    except ValueError:
        logging.getLogger("any.library").exception("it broke: %s", HUB)
    line = json.loads(reported.log.getvalue())
    assert [one["exc_type"] for one in line["exception"]] == ["ValueError", "RuntimeError"]
    _search(reported, [HUB, PLAIN, PASSWORD])


def test_known_values_and_signatures_of_links_are_hidden() -> None:
    masker = Masker(['pass"word\\x', "short"])
    line = json.dumps({"event": 'pass"word\\x short', "path": "/files/a?signature=abcdefghijklmnopqrstuvwxyz&x=1"})
    assert json.loads(masker(line)) == {"event": "*** short", "path": "/files/a?signature=***&x=1"}


def test_the_passwords_of_the_settings_are_known() -> None:
    environment = settings.ANNEAL.model_copy(
        update={"database_url": "postgresql://me:db-pass%2Fword@db/anneal", "secrets_keys": f"{KEY}, {KEY}"}
    )
    assert {settings.SECRET_KEY, PASSWORD, "db-pass%2Fword", KEY} <= set(environment.secret_values)
