"""Project secrets: they go in, are kept encrypted, and come out for an attempt alone."""

import io
import json
from typing import Any

import pytest
from cryptography.fernet import Fernet
from django.core.management import CommandError, call_command
from django.db import connection
from rest_framework.test import APIClient

from api.accounts.models import Project, ProjectSecret
from api.accounts.secrets import UnreadableError, value_open
from api.audit.models import Audit
from tests.api.actors import person
from tests.api.world import Environ

pytestmark = pytest.mark.django_db
VALUE = "hf_" + "s3cret" * 6
URL = "/api/v1/secrets"
OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()


@pytest.fixture(autouse=True)
def with_key(environ: Environ) -> None:
    environ(secrets_keys=OLD)


def put(client: APIClient, name: str = "hub", value: object = VALUE, kind: object = "hub") -> Any:
    return client.put(f"{URL}/{name}", {"kind": kind, "value": value}, format="json")


def test_a_secret_is_written_listed_replaced_and_deleted_and_its_value_never_comes_back(user: APIClient) -> None:
    answers = [put(user), user.get(URL), user.get(f"{URL}/hub"), put(user, value="another-value"), user.get(URL)]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    assert answers[1].json()["results"] == [answers[0].json()]
    assert answers[0].json()["variable"] == "HF_TOKEN"
    assert answers[0].json()["rotated"] is None
    assert answers[4].json()["results"][0]["rotated"] is not None
    assert user.delete(f"{URL}/hub").status_code == 204
    assert user.get(f"{URL}/hub").status_code == 404
    assert not any(VALUE in answer.content.decode() for answer in answers)
    assert [row.kind for row in Audit.objects.filter(object="secret:hub").order_by("id")] == [
        "secret_created",
        "secret_replaced",
        "secret_deleted",
    ]
    assert all(
        row.project_id and row.actor == "user:admin-of-default" for row in Audit.objects.filter(object="secret:hub")
    )


def test_no_row_of_the_database_holds_the_value(user: APIClient) -> None:
    put(user)
    assert VALUE not in database_dump()
    assert value_open(ProjectSecret.objects.get()) == VALUE


def database_dump() -> str:
    """Every row of every table as text."""
    result = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT * FROM "{table}"')
            result += [f"{table}: {row!r}" for row in cursor.fetchall()]
    return "\n".join(result)


@pytest.mark.parametrize(
    "value", ["tooshor", "with a blank in it", VALUE + "\n", "käse-käse-käse", "x" * 4001, "", None, 123456789, [VALUE]]
)
def test_a_value_that_could_not_be_masked_is_refused_and_not_repeated(user: APIClient, value: object) -> None:
    answer = put(user, value=value)
    assert answer.status_code == 400
    assert answer.json()["fields"]["value"] == ["expected 8 to 4000 printable ASCII characters without blanks"]
    assert not value or str(value)[2:] not in answer.content.decode()


def test_a_body_that_is_no_object_is_refused_and_not_repeated(user: APIClient) -> None:
    answer = user.put(f"{URL}/hub", json.dumps(VALUE), content_type="application/json")
    assert answer.status_code == 400
    assert VALUE not in answer.content.decode()


@pytest.mark.parametrize("name", ["Hub", "1hub", "hub-x", "h" * 51, "hub%20"])
def test_a_name_must_fit_an_environment_variable(user: APIClient, name: str) -> None:
    assert put(user, name=name).status_code == 400


def test_only_admins_of_the_project_see_or_touch_its_secrets(user: APIClient, stranger: APIClient) -> None:
    put(user)
    for role in ("reader", "writer"):
        client = person("default", role)
        answers = [client.get(URL), client.get(f"{URL}/hub"), put(client), client.delete(f"{URL}/hub")]
        assert [answer.status_code for answer in answers] == [403] * 4
    assert stranger.get(URL).json()["results"] == []
    assert [stranger.get(f"{URL}/hub").status_code, stranger.delete(f"{URL}/hub").status_code] == [404, 404]
    assert APIClient().get(URL).status_code == 401
    assert put(stranger, value="their-own-value").status_code == 201
    assert value_open(ProjectSecret.objects.get(project__name="default")) == VALUE


def test_without_a_key_the_feature_is_refused_with_a_sentence(user: APIClient, environ: Environ) -> None:
    environ(secrets_keys="")
    answer = put(user)
    assert (answer.status_code, answer.json()["code"]) == (409, "secrets_off")
    assert "ANNEAL_SECRETS_KEYS" in answer.json()["message"]
    assert not ProjectSecret.objects.exists()


def test_a_list_costs_the_same_queries_however_long(
    user: APIClient, django_assert_max_num_queries: Any, project: Project
) -> None:
    for number in range(30):
        ProjectSecret.objects.create(project=project, name=f"s{number}", kind="generic", ciphertext="x")
    with django_assert_max_num_queries(4):
        assert len(user.get(URL).json()["results"]) == 30


def rotate() -> str:
    message = io.StringIO()
    call_command("rotate_secrets", stdout=message)
    return message.getvalue()


def test_rotation_encrypts_all_anew_so_that_the_old_key_can_go(user: APIClient, environ: Environ) -> None:
    put(user)
    put(user, name="other", kind="generic", value="other-value")
    environ(secrets_keys=f"{NEW},{OLD}")
    assert rotate().startswith("2 secrets")
    environ(secrets_keys=NEW)
    assert [value_open(secret) for secret in ProjectSecret.objects.order_by("name")] == [VALUE, "other-value"]
    assert Audit.objects.filter(kind="secret_reencrypted", actor="command:rotate_secrets").count() == 2


def test_rotation_says_which_secret_no_key_opens_and_rotates_the_others(user: APIClient, environ: Environ) -> None:
    put(user, name="lost")
    environ(secrets_keys=NEW)
    put(user, name="kept")
    with pytest.raises(CommandError, match="'lost'"):
        rotate()
    environ(secrets_keys="")
    with pytest.raises(CommandError, match="ANNEAL_SECRETS_KEYS"):
        rotate()


def test_a_ciphertext_that_was_copied_to_another_row_does_not_open(user: APIClient, stranger: APIClient) -> None:
    put(user)
    put(stranger, value="their-own-value")
    current = ProjectSecret.objects.get(project__name="default")
    ProjectSecret.objects.filter(project__name="other").update(ciphertext=current.ciphertext)
    with pytest.raises(UnreadableError, match="belongs to another"):
        value_open(ProjectSecret.objects.get(project__name="other"))
