"""Tokens: what is stored, what they open, when they stop."""

import hashlib
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from rest_framework.test import APIClient

from api.accounts.models import Membership, Project, Token
from api.accounts.tokens import token_find, token_new, token_revoke, user_token_create, worker_token_create
from tests.api.actors import person, with_token, worker

pytestmark = pytest.mark.django_db


ME = "/api/v1/me"


def login(**body: str) -> Any:
    return APIClient().post("/api/v1/auth/login", body, format="json")


@pytest.fixture
def plain() -> str:
    user = get_user_model().objects.create_user("anna", password="a long password")
    project = Project.objects.create(name="default")
    Membership.objects.create(user=user, project=project, role="writer")
    return user_token_create(user=user, project=project, name="laptop")[0]


def test_a_token_has_its_prefix_and_32_random_bytes() -> None:
    tokens = {token_new("ant_")[0] for _ in range(100)}
    assert len(tokens) == 100
    assert all(token.startswith("ant_") and len(token) == 4 + 43 for token in tokens)


def test_only_the_digest_of_a_token_is_stored(plain: str) -> None:
    token = Token.objects.get()
    assert token.sha256 == hashlib.sha256(plain.encode()).hexdigest()
    assert all(plain not in str(getattr(token, field.attname)) for field in Token._meta.concrete_fields)


def test_a_token_says_who_it_speaks_for(plain: str) -> None:
    answer = with_token(plain).get(ME)
    assert answer.json() == {"user": "anna", "project": "default", "scopes": ["read", "write"]}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Bearer x y", "Basic YTpi", "Bearer ant_wrong", "Bearer ü"]
)
@pytest.mark.usefixtures("plain")
def test_anything_but_a_known_token_is_401_in_the_one_shape(header: str) -> None:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=header)
    answer = client.get(ME)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json().keys() == {"code", "message", "hint", "fields"}


def test_an_expired_token_opens_nothing(plain: str) -> None:
    Token.objects.update(expires_at=timezone.now() + timedelta(hours=1))
    assert with_token(plain).get(ME).status_code == 200
    Token.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert with_token(plain).get(ME).status_code == 401


def test_a_revoked_token_opens_nothing_and_the_first_revocation_stays(plain: str) -> None:
    token_revoke(token=Token.objects.get())
    first = Token.objects.get().revoked_at
    token_revoke(token=Token.objects.get())
    assert Token.objects.get().revoked_at == first
    assert with_token(plain).get(ME).status_code == 401


def test_a_token_of_an_inactive_user_or_a_former_member_opens_nothing(plain: str) -> None:
    get_user_model().objects.update(is_active=False)
    assert with_token(plain).get(ME).status_code == 401
    get_user_model().objects.update(is_active=True)
    Membership.objects.all().delete()
    assert with_token(plain).get(ME).status_code == 401


def test_the_role_cuts_the_scopes_at_once(plain: str) -> None:
    Membership.objects.update(role="reader")
    client = with_token(plain)
    assert client.get(ME).json()["scopes"] == ["read"]
    answer = client.post("/api/v1/datasets", {"name": "cats"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


def test_a_token_made_for_reading_does_not_write() -> None:
    client = person(role="admin", scopes=("read",))
    assert client.get("/api/v1/datasets").status_code == 200
    assert client.post("/api/v1/datasets", {"name": "cats"}, format="json").status_code == 403


def test_token_classes_do_not_stand_in_for_one_another(plain: str) -> None:
    assert worker().get(ME).status_code == 401
    assert token_find(plain, "worker") is None
    worker_plain, _ = worker_token_create(name="host")
    assert token_find(worker_plain, "user") is None
    assert token_find(worker_plain, "worker") is not None


def test_last_used_is_written_seldom(plain: str) -> None:
    with_token(plain).get(ME)
    first = Token.objects.get().last_used
    assert first is not None
    with_token(plain).get(ME)
    assert Token.objects.get().last_used == first
    Token.objects.update(last_used=first - timedelta(minutes=5))
    with_token(plain).get(ME)
    assert Token.objects.get().last_used > first - timedelta(minutes=5)


def test_an_unknown_scope_is_refused() -> None:
    user = get_user_model().objects.create_user("anna")
    with pytest.raises(ValueError, match="unknown scopes fly; known scopes: read, write, admin"):
        user_token_create(user=user, project=Project.objects.create(name="p"), name="x", scopes=["fly"])


@pytest.mark.usefixtures("plain")
def test_a_password_gives_a_token_that_ends() -> None:
    answer = login(username="anna", password="a long password")
    assert answer.status_code == 200
    assert answer.json()["project"] == "default"
    assert with_token(answer.json()["token"]).get(ME).json()["user"] == "anna"
    assert Token.objects.get(name="login").expires_at > timezone.now() + timedelta(days=1)


@pytest.mark.usefixtures("plain")
def test_a_wrong_password_and_an_unknown_user_look_alike() -> None:
    wrong, unknown = login(username="anna", password="no"), login(username="bert", password="no")
    assert wrong.status_code == unknown.status_code == 401
    assert wrong.json() == unknown.json()
    assert login(username="anna").json()["fields"] == {"password": ["is needed"]}


@pytest.mark.usefixtures("plain")
def test_a_login_chooses_among_the_own_projects_only() -> None:
    Project.objects.create(name="other")
    answer = login(username="anna", password="a long password", project="other")
    assert answer.status_code == 403
    assert "other" in answer.json()["message"]
