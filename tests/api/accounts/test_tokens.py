"""Tokens, passwords and the audit over REST."""

from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth import get_user_model
from django.utils import timezone
from rest_framework.test import APIClient

from api.accounts.models import Membership, Project, Token
from api.accounts.tokens import token_find
from tests.api.actors import person, with_token
from tests.api.world import World

pytestmark = pytest.mark.django_db
TOKENS = "/api/v1/tokens"
PASSWORD = "correct horse battery"


@pytest.fixture
def anna(project: Project) -> APIClient:
    """Logged in, a writer of `default` and a reader of `second`."""
    user = get_user_model().objects.create_user("anna", password=PASSWORD)
    Membership.objects.create(user=user, project=project, role="writer")
    Membership.objects.create(user=user, project=Project.objects.create(name="second"), role="reader")
    return with_token(login().json()["token"])


def login(password: str = PASSWORD) -> Any:
    body = {"username": "anna", "password": password}
    return APIClient().post("/api/v1/auth/login", body, format="json")


def make(client: APIClient, **body: Any) -> Any:
    return client.post(TOKENS, {"name": "ci", **body}, format="json")


def test_a_login_makes_a_token_that_is_shown_once(anna: APIClient) -> None:
    created = make(anna, scopes=["read", "write"], expires_in_days=7)
    assert created.status_code == 201
    plain = created.json()["token"]
    assert with_token(plain).get("/api/v1/me").json() == {
        "user": "anna",
        "project": "default",
        "scopes": ["read", "write"],
    }
    listed = anna.get(TOKENS)
    assert plain not in listed.content.decode()
    assert [row["name"] for row in listed.json()["results"]] == ["ci", "login"]
    assert "sha256" not in listed.json()["results"][0]
    ends = Token.objects.get(name="ci").expires_at
    assert ends is not None and abs(ends - timezone.now() - timedelta(days=7)) < timedelta(minutes=1)


def test_no_token_opens_more_than_its_maker(anna: APIClient) -> None:
    answer = make(anna, scopes=["read", "admin"])
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_beyond")
    assert make(anna, scopes=["write"], project="second").status_code == 403
    other = make(anna, scopes=["read"], project="second")
    assert with_token(other.json()["token"]).get("/api/v1/me").json()["project"] == "second"
    assert make(anna, project="nowhere").status_code == 404


def test_a_token_of_a_program_makes_none_unless_it_is_an_admins(anna: APIClient, user: APIClient) -> None:
    program = with_token(make(anna, scopes=["read", "write"]).json()["token"])
    assert (make(program).status_code, make(program).json()["code"]) == (403, "not_a_login")
    admins = make(user, scopes=["admin", "read"], expires_in_days=1)
    child = make(with_token(admins.json()["token"]), expires_in_days=None)
    assert child.json()["expires_at"] == admins.json()["expires_at"], "it may not outlive its maker"
    assert make(user, project="second").status_code == 404


@pytest.mark.parametrize(
    "body",
    [{"scopes": ["fly"]}, {"scopes": []}, {"expires_in_days": 0}, {"expires_in_days": 10**6}, {"name": ""}, {"x": 1}],
)
def test_an_impossible_token_is_refused_by_field(anna: APIClient, body: dict[str, Any]) -> None:
    answer = make(anna, **body)
    assert (answer.status_code, len(answer.json()["fields"])) == (400, 1)


def test_a_revoked_token_is_dead_at_once_and_stays_listed(anna: APIClient) -> None:
    created = make(anna).json()
    assert anna.delete(f"{TOKENS}/{created['id']}").status_code == 204
    assert with_token(created["token"]).get("/api/v1/me").status_code == 401
    assert anna.delete(f"{TOKENS}/{created['id']}").status_code == 204
    assert anna.get(f"{TOKENS}/{created['id']}").json()["revoked_at"] is not None


def test_tokens_of_others_are_seen_by_the_projects_admin_alone(anna: APIClient, user: APIClient) -> None:
    created = make(anna).json()
    for client in (person("default", "writer"), person("other", "admin")):
        assert client.get(f"{TOKENS}/{created['id']}").status_code == 404
        assert client.delete(f"{TOKENS}/{created['id']}").status_code == 404
    assert user.get(f"{TOKENS}/{created['id']}").json()["user"] == "anna"
    assert user.delete(f"{TOKENS}/{created['id']}").status_code == 204


def test_worker_tokens_are_made_and_seen_by_superusers_only(user: APIClient) -> None:
    assert user.post(f"{TOKENS}/workers", {"name": "gpu"}, format="json").status_code == 403
    get_user_model().objects.update(is_superuser=True)
    created = user.post(f"{TOKENS}/workers", {"name": "gpu"}, format="json").json()
    assert (created["kind"], created["project"], created["scopes"]) == ("worker", None, [])
    assert token_find(created["token"], "worker") is not None
    assert created["id"] in [row["id"] for row in user.get(TOKENS).json()["results"]]
    assert user.delete(f"{TOKENS}/{created['id']}").status_code == 204
    assert token_find(created["token"], "worker") is None


def test_logging_out_ends_the_token(anna: APIClient) -> None:
    assert anna.post("/api/v1/auth/logout").status_code == 204
    assert anna.get("/api/v1/me").status_code == 401


def test_a_new_password_ends_all_logins_and_leaves_programs(anna: APIClient) -> None:
    other_login = with_token(login().json()["token"])
    program = with_token(make(anna).json()["token"])
    body = {"old": PASSWORD, "new": "quite another long one"}
    assert anna.post("/api/v1/me/password", body, format="json").status_code == 204
    assert [client.get("/api/v1/me").status_code for client in (anna, other_login, program)] == [401, 401, 200]
    assert (login().status_code, login("quite another long one").status_code) == (401, 200)


def test_a_password_is_changed_by_who_knows_it_and_not_to_a_weak_one(anna: APIClient) -> None:
    for body, field in (
        ({"old": "no", "new": "quite another long one"}, "old"),
        ({"old": PASSWORD, "new": "short"}, "new"),
    ):
        answer = anna.post("/api/v1/me/password", body, format="json")
        assert (answer.status_code, list(answer.json()["fields"])) == (400, [field])
    assert anna.get("/api/v1/me").status_code == 200


def test_guessing_the_old_password_is_limited_like_a_login(anna: APIClient) -> None:
    body = {"old": "no", "new": "quite another long one"}
    answers = [anna.post("/api/v1/me/password", body, format="json").status_code for _ in range(10)]
    assert answers == [400] * 9 + [429], "the login of the fixture was the first try"


def test_the_audit_tells_an_admin_who_did_what(user: APIClient, world: World) -> None:
    job = user.post("/api/v1/jobs", world.request, format="json").json()
    user.post(f"/api/v1/jobs/{job['id']}/cancel")
    result = user.get("/api/v1/audit", {"object": f"job:{job['id']}"}).json()["results"]
    assert [row["kind"] for row in result][-1] == "job_created"
    assert result[0]["kind"] == "job_cancelled"
    assert {row["actor"] for row in result} == {"user:admin-of-default"}
    assert user.get("/api/v1/audit", {"kind": "job_created", "actor": "user:nobody"}).json()["results"] == []


def test_the_audit_is_for_admins_and_ends_at_the_projects_border(user: APIClient, world: World) -> None:
    user.post("/api/v1/jobs", world.request, format="json")
    assert person("default", "writer").get("/api/v1/audit").status_code == 403
    data = person("other", "admin").get("/api/v1/audit").json()["results"]
    assert not any(row["object"].startswith("job:") for row in data)


def test_the_audit_is_read_page_by_page(user: APIClient, django_assert_max_num_queries: Any) -> None:
    for _ in range(5):
        make(user)
    with django_assert_max_num_queries(3):
        first = user.get("/api/v1/audit", {"limit": 4}).json()
    second = user.get(first["next"]).json()
    ids = [row["id"] for row in first["results"] + second["results"]]
    assert len(first["results"]) == 4 and ids == sorted(ids, reverse=True)
    assert all(row["kind"] == "token_created" for row in first["results"])


@pytest.mark.parametrize("count", [2, 30])
def test_the_list_of_tokens_costs_the_same_number_of_queries(
    user: APIClient, django_assert_max_num_queries: Any, count: int
) -> None:
    for _ in range(count):
        make(user)
    with django_assert_max_num_queries(3):
        user.get(TOKENS)
