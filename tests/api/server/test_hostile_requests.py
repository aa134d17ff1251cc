"""What no honest program sends: each gets a 4xx in the one shape, on every address that could take it."""

import base64
import json
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import httpx
import pytest
from cryptography.fernet import Fernet
from django.test import Client

from api.openapi import openapi_document
from tests.api.actors import person
from tests.api.fuzz import real_name
from tests.api.scene import Scene, scene_make
from tests.api.served import served
from tests.api.world import Environ
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)
Value = TypeVar("Value")
KEYS = {"code", "message", "hint", "fields"}
WORDS = (
    "%00",
    "x" * 3000,
    "%F0%9F%92%A5",
    "..%2F..%2Fetc",
    "%ED%A0%80",
    "9" * 400,
    "-1",
    "nan",
    "'%3B--",
    "%0d%0aX-A:1",
    "@1",
    "a@999999999",
)
NUMBERS = ("-1", "9" * 30, "9" * 5000, "1e309", "0x10", "٣", "1.5", "null", "%00")
INSIDE = ("p=never", "p=%00", "o=-1", f"o={10**20}", "p=9999-99-99", f"p={10**20}", "r=1&p=x", "\0")
CURSORS = (*(base64.b64encode(text.encode()).decode() for text in INSIDE), "====", "x" * 5000, "é")
BODIES: tuple[bytes, ...] = (
    b'{"name": "\\u0000"}',
    b"[" * 100_000 + b"]" * 100_000,
    b"",
    b"{",
    b"\xff\xfe{}",
    b"null",
    b'"text"',
    b'{"a":' * 2000 + b"1" + b"}" * 2000,
    b'{"name": "\\ud800"}',
    b'{"name": "' + b"x" * 100_000 + b'"}',
    b'{"name": 1e999}',
    b'{"name": NaN}',
    b'{"name": ' + b"9" * 6000 + b"}",
    b'{"priority": 99999999999999999999}',
    json.dumps({"name": "x", "method": "image_lora", "params": {"adaptor_name": "x", "seed": 2**70}}).encode(),
    b'{"__proto__": {}, "constructor": []}',
)
LEFT_OUT = ("logout",)
FEW_SOME_ALL = pytest.mark.parametrize(
    "most",
    [1, pytest.param(3, marks=pytest.mark.slow), pytest.param(None, marks=pytest.mark.long)],
    ids=["few", "some", "all"],
)
"""How many of the values are tried at each place."""


@pytest.fixture
def url(environ: Environ) -> Iterator[str]:
    limits = ("logins_per_minute_account", "logins_per_minute_address", "claims_per_minute", "writes_per_minute")
    environ(secrets_keys=Fernet.generate_key().decode(), **dict.fromkeys(limits, 10**9))
    with served() as address:
        yield address


@pytest.fixture
def scene(url: str) -> Scene:  # noqa: ARG001 its settings come first
    return scene_make()


@pytest.fixture
def admin(scene: Scene, url: str) -> Iterator[httpx.Client]:
    headers = {"Authorization": scene.clients["admin"]._credentials["HTTP_AUTHORIZATION"]}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        yield client


def operations(internal: bool = False) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, result in openapi_document(internal=internal)["paths"].items():
        for verb, operation in result.items():
            if operation["operationId"] not in LEFT_OUT:
                yield verb, path, operation


def filled(scene: Scene, path: str, operation: dict[str, Any]) -> str:
    names = {**scene.names, **scene.seconds}
    for one in operation.get("parameters", []):
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", real_name(path, one["name"], names))
    return path


class Chooser:
    """Chooses the values of each place: all, or the first and so many others that the places have different ones."""

    def __init__(self, most: int | None) -> None:
        self._others = most and most - 1
        self._turn = 0

    def __call__(self, values: Sequence[Value]) -> Sequence[Value]:
        if self._others is None:
            return values
        first, *rest = values
        chosen = [rest[(self._turn + number) % len(rest)] for number in range(self._others)]
        self._turn += self._others
        return [first, *chosen]


def faults(answer: httpx.Response, operation: dict[str, Any], what: str) -> list[str]:
    message = f"{what}: {answer.status_code} {answer.text[:300]}"
    if answer.status_code >= 500:
        return [message]
    if answer.status_code >= 400 and answer.json().keys() != KEYS:
        return [f"not the one shape: {message}"]
    existing = answer.status_code in (405, 400, 404) or str(answer.status_code) in operation["responses"]
    return [] if existing else [f"not described: {message}"]


@FEW_SOME_ALL
def test_impossible_names_in_addresses(scene: Scene, admin: httpx.Client, most: int | None) -> None:
    wrong, chosen = [], Chooser(most)
    for verb, path, operation in operations():
        for name in [one["name"] for one in operation.get("parameters", []) if one["in"] == "path"]:
            for word in chosen(WORDS):
                address = filled(scene, path.replace(f"{{{name}}}", word), operation)
                wrong += faults(admin.request(verb, address), operation, f"{verb} {path} with {name}={word[:30]}")
    assert not wrong, "\n".join(wrong)


@FEW_SOME_ALL
def test_impossible_values_in_queries(scene: Scene, admin: httpx.Client, most: int | None) -> None:
    wrong, chosen = [], Chooser(most)
    for verb, path, operation in operations():
        for one in operation.get("parameters", []):
            if one["in"] != "query":
                continue
            for value in chosen(CURSORS) if one["name"] == "cursor" else (*chosen(NUMBERS), *chosen(WORDS)):
                answer = admin.request(verb, f"{filled(scene, path, operation)}?{one['name']}={value}")
                wrong += faults(answer, operation, f"{verb} {path}?{one['name']}={value[:60]}")
    assert not wrong, "\n".join(wrong)


@FEW_SOME_ALL
def test_impossible_bodies(scene: Scene, admin: httpx.Client, most: int | None) -> None:
    wrong, chosen = [], Chooser(most)
    for verb, path, operation in operations():
        if "requestBody" not in operation:
            continue
        for body in chosen(BODIES):
            address, headers = filled(scene, path, operation), {"Content-Type": "application/json"}
            answer = admin.request(verb, address, content=body, headers=headers)
            wrong += faults(answer, operation, f"{verb} {path} with {body[:60]!r}")
        for kind in (
            "text/plain",
            "application/xml",
            "multipart/form-data",
            "application/json; charset=utf-16",
            "nonsense",
        ):
            answer = admin.request(verb, filled(scene, path, operation), content=b"{}", headers={"Content-Type": kind})
            wrong += faults(answer, operation, f"{verb} {path} as {kind}")
    assert not wrong, "\n".join(wrong)


@FEW_SOME_ALL
def test_impossible_bodies_of_machines(scene: Scene, url: str, most: int | None) -> None:
    wrong, chosen = [], Chooser(most)
    for verb, path, operation in operations(internal=True):
        client = scene.agent.client if "attempts" in path else scene.host.client
        headers = {"Authorization": client._credentials["HTTP_AUTHORIZATION"], "Content-Type": "application/json"}
        for body in chosen(BODIES):
            answer = httpx.request(verb, url + filled(scene, path, operation), content=body, headers=headers)
            wrong += faults(answer, operation, f"{verb} {path} with {body[:60]!r}")
    assert not wrong, "\n".join(wrong)


def test_what_another_kind_is_asked_for_is_refused(admin: httpx.Client) -> None:
    assert admin.get("/api/v1/jobs", headers={"Accept": "application/xml"}).status_code == 406


def test_a_long_idempotency_key_is_refused(scene: Scene, admin: httpx.Client) -> None:
    answer = admin.post("/api/v1/jobs", json=scene.request, headers={"Idempotency-Key": "x" * 1000})
    assert answer.status_code == 400


def test_a_host_that_is_not_ours_is_refused(client: Client) -> None:
    answer = client.get("/healthz", headers={"Host": "evil.example.org"})
    assert answer.status_code in (200, 400)
    assert person().get("/api/v1/jobs", headers={"Host": "evil.example.org"}).status_code == 400
