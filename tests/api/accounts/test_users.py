"""People are disabled, enabled and given a new password by a superuser."""

from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.accounts.tokens import user_token_create
from api.audit.models import Audit
from tests.api.actors import person, with_token

pytestmark = pytest.mark.django_db
ANNA = "/api/v1/users/anna"


def client_of(name: str, **rights: bool) -> APIClient:
    person()  # makes the project
    user, _ = get_user_model().objects.get_or_create(username=name, defaults=rights)
    project = Project.objects.get(name="default")
    project.memberships.get_or_create(user=user, defaults={"role": "admin"})
    return with_token(user_token_create(user=user, project=project, name="test", login=False)[0])


@pytest.fixture
def root() -> APIClient:
    return client_of("root", is_superuser=True)


@pytest.fixture
def anna() -> APIClient:
    return client_of("anna")


def kinds() -> list[Any]:
    return list(Audit.objects.filter(object="user:anna").order_by("pk").values_list("kind", "actor"))


def test_a_disabled_person_opens_nothing_until_enabled(root: APIClient, anna: APIClient) -> None:
    assert anna.get("/api/v1/me").status_code == 200
    for _ in range(2):
        assert root.post(f"{ANNA}/disable").json()["active"] is False
    assert anna.get("/api/v1/me").status_code == 401
    assert root.post(f"{ANNA}/enable").json()["active"] is True
    assert anna.get("/api/v1/me").status_code == 200
    assert kinds() == [("user_disabled", "user:root"), ("user_enabled", "user:root")]


def test_the_last_active_superuser_cannot_be_disabled(root: APIClient) -> None:
    answer = root.post("/api/v1/users/root/disable")
    assert (answer.status_code, answer.json()["code"]) == (409, "last_superuser")
    other = client_of("other", is_superuser=True)
    assert other.post("/api/v1/users/root/disable").status_code == 200
    assert other.post("/api/v1/users/other/disable").status_code == 409, "a disabled one does not count"


def test_a_reset_gives_a_new_password_and_ends_logins(root: APIClient, anna: APIClient) -> None:
    user = get_user_model().objects.get(username="anna")
    login = with_token(user_token_create(user=user, project=Project.objects.get(), name="login", login=True)[0])
    assert login.get("/api/v1/me").status_code == 200
    password = root.post(f"{ANNA}/reset").json()["password"]
    assert authenticate(username="anna", password=password) == user
    assert login.get("/api/v1/me").status_code == 401 and anna.get("/api/v1/me").status_code == 200
    assert kinds() == [("password_reset", "user:root")]


def test_nobody_else_may_and_nobody_is_made_by_it(root: APIClient, anna: APIClient) -> None:
    for what in ("disable", "enable", "reset"):
        assert anna.post(f"/api/v1/users/root/{what}").status_code == 403
        assert root.post(f"/api/v1/users/nobody/{what}").status_code == 404
