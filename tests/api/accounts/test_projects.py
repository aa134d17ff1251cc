"""Projects, members and people over REST."""

from typing import Any

import pytest
from django.contrib.auth import authenticate, get_user_model
from rest_framework.test import APIClient

from api.accounts.models import Membership, Project
from api.audit.models import Audit
from tests.api.actors import person
from tests.api.world import Environ

pytestmark = pytest.mark.django_db
MEMBERS = "/api/v1/projects/default/members"


def put(client: APIClient, username: str, role: str, project: str = "default") -> Any:
    return client.put(f"/api/v1/projects/{project}/members/{username}", {"role": role}, format="json")


def superuser() -> APIClient:
    client = person("default", "admin")
    get_user_model().objects.update(is_superuser=True)
    return client


def test_a_superuser_makes_a_project_and_is_its_admin() -> None:
    client = superuser()
    answer = client.post("/api/v1/projects", {"name": "cats"}, format="json")
    assert (answer.status_code, answer.json()["role"]) == (201, "admin")
    assert client.get("/api/v1/projects/cats").json()["name"] == "cats"
    names = [row["name"] for row in client.get("/api/v1/projects").json()["results"]]
    assert names == ["cats", "default"]


def test_a_taken_or_impossible_project_name_is_refused() -> None:
    client = superuser()
    answer = client.post("/api/v1/projects", {"name": "default"}, format="json")
    assert (answer.status_code, answer.json()["code"]) == (409, "name_taken")
    answer = client.post("/api/v1/projects", {"name": "a/b"}, format="json")
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["name"])


def test_others_make_projects_only_where_the_setting_says_so(user: APIClient, environ: Environ) -> None:
    assert user.post("/api/v1/projects", {"name": "cats"}, format="json").status_code == 403
    environ(project_creation="anyone")
    assert user.post("/api/v1/projects", {"name": "cats"}, format="json").status_code == 201


def test_a_project_of_others_is_not_there(user: APIClient, stranger: APIClient) -> None:
    for client, name in ((user, "other"), (stranger, "default"), (user, "nowhere")):
        assert client.get(f"/api/v1/projects/{name}").status_code == 404
        assert client.get(f"/api/v1/projects/{name}/members").status_code == 404
        assert put(client, "admin-of-default", "reader", name).status_code == 404


def test_a_superuser_opens_every_project() -> None:
    person("other")
    client = superuser()
    assert client.get("/api/v1/projects/other").json() | {"created": ""} == {
        "name": "other",
        "role": None,
        "created": "",
    }


INVITATIONS = "/api/v1/me/invitations"


def invited(user: APIClient) -> APIClient:
    """A person of another project, invited as a reader."""
    anna = person("elsewhere", "writer")
    answer = put(user, "writer-of-elsewhere", "reader")
    assert (answer.status_code, answer.json()["accepted"]) == (202, False)
    return anna


def test_an_invited_person_is_no_member_until_they_accept(user: APIClient) -> None:
    anna = invited(user)
    assert [row["user"] for row in user.get(MEMBERS).json()["results"]] == ["admin-of-default"]
    assert [row["name"] for row in anna.get("/api/v1/projects").json()["results"]] == ["elsewhere"]
    listed = anna.get(INVITATIONS).json()["results"][0]
    assert (listed["project"], listed["role"], listed["by"]) == ("default", "reader", "admin-of-default")
    assert anna.post(INVITATIONS, {"project": "default"}, format="json").status_code == 204
    assert [row["name"] for row in anna.get("/api/v1/projects").json()["results"]] == ["default", "elsewhere"]
    assert anna.get(INVITATIONS).json()["results"] == []


def test_an_invitation_may_be_declined_or_withdrawn(user: APIClient) -> None:
    anna = invited(user)
    assert anna.post(INVITATIONS, {"project": "default", "accept": False}, format="json").status_code == 204
    assert put(user, "writer-of-elsewhere", "admin").status_code == 202
    assert user.delete(f"{MEMBERS}/writer-of-elsewhere").status_code == 204
    assert anna.post(INVITATIONS, {"project": "default"}, format="json").status_code == 404
    assert Membership.objects.filter(project__name="default").count() == 1


def test_somebody_in_no_project_accepts_an_invitation_by_logging_in(user: APIClient) -> None:
    get_user_model().objects.create_user("anna", password="a long password")
    put(user, "anna", "reader")
    login = {"username": "anna", "password": "a long password"}
    refused = APIClient().post("/api/v1/auth/login", login, format="json")
    assert (refused.status_code, refused.json()["fields"]) == (403, {"join": ["default"]})
    assert refused.json()["message"].endswith("You are invited to default.")
    assert not Membership.objects.filter(user__username="anna").exists(), "a login alone accepts nothing"
    wrong = APIClient().post("/api/v1/auth/login", {**login, "password": "x", "join": "default"}, format="json")
    assert wrong.status_code == 401 and not Membership.objects.filter(user__username="anna").exists()
    assert APIClient().post("/api/v1/auth/login", {**login, "join": "other"}, format="json").status_code == 404
    both = {**login, "join": "default", "project": "other"}
    assert APIClient().post("/api/v1/auth/login", both, format="json").status_code == 400
    joined = APIClient().post("/api/v1/auth/login", {**login, "join": "default"}, format="json")
    assert (joined.status_code, joined.json()["project"]) == (200, "default")
    assert Membership.objects.get(user__username="anna").role == "reader"
    assert APIClient().post("/api/v1/auth/login", login, format="json").status_code == 200


def test_nobody_accepts_the_invitation_of_another(user: APIClient) -> None:
    invited(user)
    other = person("third")
    assert other.post(INVITATIONS, {"project": "default"}, format="json").status_code == 404


def test_an_admin_cannot_reduce_or_remove_a_superuser(user: APIClient) -> None:
    root = person("default", "writer")
    get_user_model().objects.filter(username="writer-of-default").update(is_superuser=True)
    for answer in (put(user, "writer-of-default", "reader"), user.delete(f"{MEMBERS}/writer-of-default")):
        assert (answer.status_code, answer.json()["code"]) == (403, "superuser_only")
    assert root.delete(f"{MEMBERS}/writer-of-default").status_code == 204


def test_a_superuser_adds_a_person_at_once() -> None:
    client = superuser()
    get_user_model().objects.create_user("anna")
    assert put(client, "anna", "reader").status_code == 201
    assert Membership.objects.get(user__username="anna").role == "reader"


def test_an_admin_changes_the_role_of_a_member(user: APIClient) -> None:
    person("default", "reader")
    assert put(user, "reader-of-default", "writer").status_code == 200
    members = user.get(MEMBERS).json()["results"]
    assert (members[0]["user"], members[0]["role"]) == ("reader-of-default", "writer")
    body = [row.data for row in Audit.objects.filter(kind="member_set")]
    assert body == [{"user": "reader-of-default", "role": "writer", "before": "reader"}]
    assert put(user, "nobody", "reader").status_code == 404
    assert put(user, "reader-of-default", "king").status_code == 400


def test_a_demoted_members_token_loses_its_scopes_at_once(user: APIClient) -> None:
    writer = person("default", "writer")
    assert writer.post("/api/v1/datasets", {"name": "a"}, format="json").status_code == 201
    put(user, "writer-of-default", "reader")
    assert writer.post("/api/v1/datasets", {"name": "b"}, format="json").status_code == 403
    assert user.delete(f"{MEMBERS}/writer-of-default").status_code == 204
    assert writer.get("/api/v1/datasets").status_code == 401


def test_the_last_admin_stays(user: APIClient) -> None:
    for answer in (put(user, "admin-of-default", "writer"), user.delete(f"{MEMBERS}/admin-of-default")):
        assert (answer.status_code, answer.json()["code"]) == (409, "last_admin")
    person("default", "writer")
    put(user, "writer-of-default", "admin")
    assert user.delete(f"{MEMBERS}/admin-of-default").status_code == 204
    assert Membership.objects.get().role == "admin"


def test_a_member_may_leave_and_may_not_put_others_out(user: APIClient) -> None:
    reader = person("default", "reader")
    assert reader.delete(f"{MEMBERS}/admin-of-default").status_code == 403
    assert put(reader, "reader-of-default", "admin").status_code == 403
    assert reader.delete(f"{MEMBERS}/reader-of-default").status_code == 204
    assert user.delete(f"{MEMBERS}/reader-of-default").status_code == 404


def test_an_admin_makes_a_person_who_then_logs_in(user: APIClient) -> None:
    answer = user.post("/api/v1/users", {"username": "anna", "role": "reader"}, format="json")
    assert (answer.status_code, answer.json()["project"]) == (201, "default")
    login = {"username": "anna", "password": answer.json()["password"]}
    assert APIClient().post("/api/v1/auth/login", login, format="json").json()["project"] == "default"
    assert authenticate(**login) is not None
    again = user.post("/api/v1/users", {"username": "ANNA"}, format="json")
    assert (again.status_code, again.json()["fields"]) == (409, {"username": ["is taken"]})
    assert not get_user_model().objects.get(username="anna").is_superuser


def test_people_are_made_by_admins_and_listed_by_superusers(user: APIClient) -> None:
    assert person("default", "writer").post("/api/v1/users", {"username": "x"}, format="json").status_code == 403
    assert user.get("/api/v1/users").status_code == 403
    listed = superuser().get("/api/v1/users").json()["results"]
    assert {"admin-of-default", "writer-of-default"} == {row["username"] for row in listed}
    assert not any("password" in row for row in listed)


@pytest.mark.parametrize("count", [2, 30])
def test_a_list_costs_the_same_number_of_queries(
    user: APIClient, django_assert_max_num_queries: Any, count: int
) -> None:
    project = Project.objects.get(name="default")
    for i in range(count):
        Membership.objects.create(project=project, user=get_user_model().objects.create_user(f"u{i}"))
    with django_assert_max_num_queries(4):  # token, its first use, role, page
        user.get(MEMBERS)
    with django_assert_max_num_queries(3):
        user.get("/api/v1/projects")
