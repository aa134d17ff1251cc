"""No made-up request, of whoever it is, gets an answer that the description does not know."""

from collections.abc import Iterator

import pytest
from cryptography.fernet import Fernet
from rest_framework.test import APIClient

from api.openapi import openapi_document
from tests.api.fuzz import Target, fuzz
from tests.api.scene import Scene, scene_make
from tests.api.served import served
from tests.api.world import Environ

pytestmark = pytest.mark.django_db(transaction=True)
MUCH = 10**9


@pytest.fixture
def url(environ: Environ) -> Iterator[str]:
    limits = ("logins_per_minute_account", "logins_per_minute_address", "claims_per_minute", "writes_per_minute")
    environ(secrets_keys=Fernet.generate_key().decode(), **dict.fromkeys(limits, MUCH))
    with served() as address:
        yield address


@pytest.fixture
def scene(url: str) -> Scene:  # noqa: ARG001 its settings come first
    return scene_make()


def test_what_people_are_answered_is_described(scene: Scene, url: str) -> None:
    wrong = fuzz(openapi_document(), people(scene, url), num_examples=1)
    assert not wrong, "\n\n".join(wrong)


def test_what_machines_are_answered_is_described(scene: Scene, url: str) -> None:
    wrong = fuzz(openapi_document(internal=True), machines(scene, url), num_examples=2)
    assert not wrong, "\n\n".join(wrong)


@pytest.mark.slow
def test_a_longer_search_finds_no_other_answer(scene: Scene, url: str) -> None:
    search(scene, url, num_examples=3)


@pytest.mark.long(smaller="test_a_longer_search_finds_no_other_answer")
def test_the_longest_search_finds_no_other_answer(scene: Scene, url: str) -> None:
    search(scene, url, num_examples=15)


def search(scene: Scene, url: str, num_examples: int) -> None:
    wrong = fuzz(openapi_document(), people(scene, url), num_examples=num_examples)
    wrong += fuzz(openapi_document(internal=True), machines(scene, url), num_examples=2 * num_examples)
    assert not wrong, "\n\n".join(wrong)


def people(scene: Scene, url: str) -> Target:
    return target(scene, url, {who: scene.clients[who] for who in ("anonymous", "reader", "writer", "admin")})


def machines(scene: Scene, url: str) -> Target:
    return target(scene, url, {"worker": scene.host.client, "attempt": scene.agent.client})


def target(scene: Scene, url: str, clients: dict[str, APIClient]) -> Target:
    message = {who: client._credentials.get("HTTP_AUTHORIZATION") for who, client in clients.items()}
    headers = {who: {"Authorization": token} if token else {} for who, token in message.items()}
    return Target(url, headers, {**scene.names, **scene.seconds})
