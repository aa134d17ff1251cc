"""docs/openapi.yaml is what the views say."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.urls import get_resolver
from drf_spectacular.validation import validate_schema

from api.openapi import openapi_yaml

pytestmark = pytest.mark.any_database
FILE = Path(__file__).resolve().parents[2] / "docs" / "openapi.yaml"
NOT_DESCRIBED = {"/api/v1/jobs/{ref}/stream"}
"""Server-sent events: a plain async view; docs/rest.md describes it."""


@pytest.fixture(scope="module")
def schema() -> Any:
    return yaml.safe_load(openapi_yaml())


def test_the_committed_file_is_current() -> None:
    assert FILE.read_text(encoding="utf-8") == openapi_yaml(), "run `make docs` and commit docs/openapi.yaml"


def test_the_description_is_valid_openapi(schema: Any) -> None:
    validate_schema(schema)
    assert schema["openapi"].startswith("3.1")


def test_every_address_below_api_is_described(schema: Any) -> None:
    assert {path for path in addresses() if path.startswith("/api/v1/")} == set(schema["paths"]) | NOT_DESCRIBED


def test_every_operation_has_a_sentence_an_answer_and_the_error_shape(schema: Any) -> None:
    for path, operations in schema["paths"].items():
        for verb, operation in operations.items():
            assert operation.get("description"), f"{verb} {path} says nothing of itself"
            assert any(code.startswith("2") for code in operation["responses"]), f"{verb} {path}"
            assert "default" not in operation["responses"], "each code is named, so that an unnamed one is noticed"
            error = operation["responses"]["400"]["content"]["application/json"]["schema"]
            assert error == {"$ref": "#/components/schemas/ErrorShape"}


def test_only_the_login_needs_no_token(schema: Any) -> None:
    open_ones = {
        path
        for path, operations in schema["paths"].items()
        for operation in operations.values()
        if operation.get("security", [{}]) in ([], [{}])
    }
    assert open_ones == {"/api/v1/auth/login"}


def test_operation_names_are_unique(schema: Any) -> None:
    names = [operation["operationId"] for operations in schema["paths"].values() for operation in operations.values()]
    assert len(set(names)) == len(names)


def addresses() -> set[str]:
    """Every address of the URL configuration, in OpenAPI's notation."""
    result: set[str] = set()

    def walk(patterns: Any, before: str) -> None:
        for pattern in patterns:
            here = before + str(pattern.pattern)
            if hasattr(pattern, "url_patterns"):
                if here != "admin/":
                    walk(pattern.url_patterns, here)
            else:
                result.add("/" + here.replace("<str:", "{").replace("<uuid:", "{").replace(">", "}"))

    walk(get_resolver().url_patterns, "")
    return result
