"""Every address, every method, every kind of caller: held against the table in `routes.py`."""

import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import transaction
from django.test import Client
from django.urls import get_resolver
from rest_framework.test import APIClient

from tests.api.actors import person
from tests.api.routes import (
    ADMIN,
    ATTEMPT,
    BODIES,
    HIDDEN,
    MADE_BY_PUT,
    OPEN,
    READ,
    ROUTES,
    SHARED,
    SUPERUSER,
    WORKER,
    WRITE,
)
from tests.api.scene import HUSH, Scene, scene_make

pytestmark = pytest.mark.django_db
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
REACHED = {200, 201, 202, 204, 400, 409, 415, 422}
"""The call came as far as its own work: what it needs was there, or was missing in the body."""
MEMBERS = {READ: {"reader", "writer", "admin"}, WRITE: {"writer", "admin"}, ADMIN: {"admin"}, SUPERUSER: set()}
VARIABLE = re.compile(r"<(?:\w+:)?(\w+)>")


def patterns(outside: str = "admin/") -> Iterator[str]:
    def walk(result: Any, before: str) -> Iterator[str]:
        for one in result:
            here = before + str(one.pattern)
            yield from walk(one.url_patterns, here) if hasattr(one, "url_patterns") else [here]

    return (
        pattern for pattern in walk(get_resolver().url_patterns, "") if pattern.startswith("admin/") != bool(outside)
    )


@pytest.fixture(scope="module")
def scene(django_db_setup: None, django_db_blocker: Any) -> Iterator[Scene]:  # noqa: ARG001 fixtures need fixtures
    """Made once; each call is undone."""
    with django_db_blocker.unblock(), pytest.MonkeyPatch.context() as patch, transaction.atomic():
        keys = {"secrets_keys": Fernet.generate_key().decode()}
        patch.setattr(settings, "ANNEAL", settings.ANNEAL.model_copy(update=keys))
        refused_open = SimpleNamespace(
            close=lambda: None
        )  # the stream gives its connection back; here it is the test's
        patch.setattr("api.jobs.streams.views.connection", refused_open)
        yield scene_make()
        transaction.set_rollback(True)


def test_the_table_names_every_address_and_no_other() -> None:
    missing = sorted(set(patterns()) - set(ROUTES))
    assert not missing, "add to tests/api/routes.py:\n" + "\n".join(f'    "{one}": {{"GET": READ}},' for one in missing)
    assert not set(ROUTES) - set(patterns()), "tests/api/routes.py names addresses that are gone"


@pytest.mark.parametrize("pattern", sorted(ROUTES))
def test_each_caller_gets_what_the_table_says(scene: Scene, pattern: str) -> None:
    wrong = []
    for method in METHODS:
        for who, client in {**scene.clients, "own attempt": scene.agent.client}.items():
            required = expected(pattern, method, who)
            got = called(client, scene, pattern, method, who)
            if got not in required:
                wrong.append(f"{method} as {who}: {got}, expected one of {sorted(required)}")
    assert not wrong, f"{pattern}\n" + "\n".join(wrong)


def expected(pattern: str, method: str, who: str) -> set[int]:
    level = ROUTES[pattern].get(method)
    if pattern.startswith("internal/"):
        return expected_inside(pattern, level, who)
    if OPEN in ROUTES[pattern].values():
        return (REACHED | {401} if "login" in pattern else {200}) if level else {405}
    if who in ("anonymous", "worker", "attempt", "own attempt"):
        return {401} if level else {401, 405}
    if level is None:
        return {403, 405}
    if level == HIDDEN:
        return reached(method) if who == "admin" else {404}
    if who != "stranger":
        return reached(method) if who in MEMBERS[level] else {403}
    has_record = "<" in pattern and not pattern.startswith(SHARED) and (method != "PUT" or pattern not in MADE_BY_PUT)
    return {404} if has_record else reached(method) | {404} if level != SUPERUSER else {403}


def expected_inside(pattern: str, level: str | None, who: str) -> set[int]:
    entitled = {WORKER: "worker", ATTEMPT: "own attempt"}
    owner = entitled[next(iter(ROUTES[pattern].values()))]
    if who == owner:
        return reached("POST") if level else {405}
    return {403} if (owner, who) == ("own attempt", "attempt") else {401}


def reached(method: str) -> set[int]:
    return {200, 204} if method == "GET" else REACHED


def called(client: APIClient, scene: Scene, pattern: str, method: str, who: str) -> int:
    """The status; what the call changed is undone."""
    body = BODIES.get((method, pattern), lambda _: {})(scene)
    with transaction.atomic():
        answer: Any = client.generic(
            method, address(scene, pattern), data=_json(client, body), content_type="application/json"
        )
        transaction.set_rollback(True)
    data = b"" if answer.streaming else answer.content
    assert HUSH.encode() not in data, f"{method} {pattern} tells {who} the value of a secret"
    if who in ("anonymous", "stranger") and not pattern.startswith("internal/"):
        leaked = [
            secret for secret in scene.secrets if secret.encode() in data and secret not in address(scene, pattern)
        ]
        assert not leaked, f"{method} {pattern} tells {who}: {leaked}"
    return int(answer.status_code)


def _json(client: APIClient, body: dict[str, Any]) -> bytes:
    encoded, _ = client._encode_data(body, format="json")
    return bytes(encoded)


def address(scene: Scene, pattern: str) -> str:
    """The pattern with what is there in the scene: by the word before the first variable, then by the variable."""
    first = VARIABLE.search(pattern)
    if first is None:
        return f"/{pattern}"
    word = pattern[: first.start()].rstrip("/").rsplit("/", 1)[-1]
    filled = f"{pattern[: first.start()]}{scene.names[word]}{pattern[first.end() :]}"
    seconds = scene.seconds
    return "/" + VARIABLE.sub(lambda result: seconds.get(f"{word}/{result[1]}") or seconds[result[1]], filled)


def test_a_token_of_less_than_its_owners_role_stays_less(scene: Scene) -> None:
    reads = person("kept-apart", "admin", scopes=("read",))
    for pattern, methods in ROUTES.items():
        for method, level in methods.items():
            if level in (WRITE, ADMIN):
                assert called(reads, scene, pattern, method, "reader") == 403, f"{method} {pattern}"


def test_no_state_changes_by_get() -> None:
    doing = (
        "cancel",
        "pause",
        "resume",
        "control",
        "drain",
        "release",
        "restore",
        "clone",
        "import",
        "revoke",
        "finish",
    )
    assert not [one for one, methods in ROUTES.items() if one.rsplit("/", 1)[-1] in doing and "GET" in methods]


def test_the_panel_is_closed_to_all_but_its_own_login(scene: Scene) -> None:
    nobody, no_staff = Client(), Client()
    no_staff.force_login(get_user_model().objects.get(username="admin-of-kept-apart"))
    clients: dict[str, Any] = {**scene.clients, "nobody": nobody, "no staff": no_staff}
    for pattern in patterns(outside=""):
        path = "/" + VARIABLE.sub("1", pattern.replace("(?P<url>.*)$", "x").replace("^", "").replace("$", ""))
        if "<" in path or "(" in path or path in ("/admin/login/",):
            continue
        for who, client in clients.items():
            answer = client.get(path)
            assert answer.status_code in (302, 403, 404, 405), f"{path} as {who}: {answer.status_code}"
            if answer.status_code == 302:
                assert answer.headers["location"].startswith(("/admin/login/", "/admin/")), (path, who)
