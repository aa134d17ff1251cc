"""`python -m api setup`: the first user, project and tokens."""

import json
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import call_command

from api.accounts.models import Token
from api.accounts.tokens import token_find
from tests.api.actors import with_token

pytestmark = pytest.mark.django_db


def setup(*options: str) -> dict[str, object]:
    out = StringIO()
    call_command("setup", "--json", *options, stdout=out)
    return json.loads(out.getvalue())


def test_setup_makes_a_user_a_project_and_working_tokens() -> None:
    created = setup()
    assert (created["created"], created["user"], created["project"]) == (True, "admin", "default")
    assert authenticate(username="admin", password=created["password"]) is not None
    assert with_token(str(created["token"])).get("/api/v1/me").json()["scopes"] == ["admin", "read", "write"]
    assert token_find(str(created["worker_token"]), "worker") is not None


def test_setup_again_makes_nothing_and_shows_no_secret() -> None:
    first = setup()
    again = setup()
    assert again == {
        "created": False,
        "user": "admin",
        "project": "default",
        "password": None,
        "token": None,
        "worker_token": None,
    }
    assert with_token(str(first["token"])).get("/api/v1/me").status_code == 200
    assert Token.objects.count() == 2


def test_new_secrets_void_the_old_ones() -> None:
    first, second = setup(), setup("--new-secrets")
    assert with_token(str(first["token"])).get("/api/v1/me").status_code == 401
    assert token_find(str(first["worker_token"]), "worker") is None
    assert authenticate(username="admin", password=first["password"]) is None
    assert with_token(str(second["token"])).get("/api/v1/me").status_code == 200
    assert authenticate(username="admin", password=second["password"]) is not None


def test_setup_prints_for_people_too() -> None:
    out = StringIO()
    call_command("setup", "--username", "anna", "--project", "shapes", stdout=out)
    assert "user: anna" in out.getvalue()
    assert "token: ant_" in out.getvalue()
