"""`GET methods`: the parameters' own schema."""

import pytest
from rest_framework.test import APIClient

from trainers.contract.params import METHODS

pytestmark = pytest.mark.django_db


def test_every_method_is_listed_with_its_schema(user: APIClient) -> None:
    listed = user.get("/api/v1/methods").json()
    assert [row["method"] for row in listed["results"]] == sorted(METHODS)
    for row in listed["results"]:
        assert row == user.get(f"/api/v1/methods/{row['method']}").json()
        assert row["schema"] == METHODS[row["method"]].model_json_schema()


def test_each_parameter_has_its_help(user: APIClient) -> None:
    for row in user.get("/api/v1/methods").json()["results"]:
        for name, field in row["schema"]["properties"].items():
            assert field.get("description"), f"{row['method']}.{name}"


def test_an_unknown_method_is_refused_with_the_list_of_methods(user: APIClient) -> None:
    answer = user.get("/api/v1/methods/fly")
    assert answer.status_code == 404
    assert "image_lora" in answer.json()["message"]
