"""The OpenAPI document, generated from the views and the schemas of their responses; also docs/openapi.yaml."""

from collections.abc import Callable
from functools import cache
from http import HTTPStatus
from typing import Any, TypeVar

from django.urls import get_resolver
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import build_bearer_security_scheme_object
from drf_spectacular.renderers import OpenApiYamlRenderer
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel, ConfigDict, create_model

from api.errors import ErrorShape

INTERNAL = "internal/"
View = TypeVar("View", bound=Callable[..., Any])
HEADER = "# Made by `python -m api openapi` from the views; a test fails when it is not current.\n"


class Schema(BaseModel):
    """Base of the response schemas: the docstring below a field is its description in the document.

    A view returns an instance that is built from rows and dumped, so a response cannot differ from its description.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)


@cache
def page_of(item: type[BaseModel]) -> type[BaseModel]:
    """The schema of one page of a list: `{results, next}`."""
    name = f"{item.__name__.removesuffix('Shape')}Page"
    page: type[BaseModel] = create_model(name, results=(list[item], ...), next=(str | None, ...))  # type: ignore[valid-type]
    return page


class UserToken(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "api.accounts.authentication.TokenAuthentication"
    name = "userToken"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:  # noqa: ARG002 a hook of drf-spectacular
        return build_bearer_security_scheme_object("Authorization", "Bearer")


class WorkerToken(UserToken):  # type: ignore[no-untyped-call]
    target_class = "api.accounts.authentication.WorkerAuthentication"
    name = "workerToken"


class AttemptToken(UserToken):  # type: ignore[no-untyped-call]
    target_class = "api.jobs.agent.views.AttemptAuthentication"
    name = "attemptToken"


def error_responses_add(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's hook: adds the error responses that an operation's kind implies; views name any others."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas[ErrorShape.__name__] = ErrorShape.model_json_schema()
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorShape.__name__}"}}}
    for operations in result["paths"].values():
        for verb, operation in operations.items():
            for code in _error_statuses(verb, operation):
                operation["responses"].setdefault(str(code), {"description": code.phrase, "content": content})
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _error_statuses(verb: str, operation: dict[str, Any]) -> list[HTTPStatus]:
    statuses = [HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE]
    if operation.get("security", [{}]) != [{}]:
        statuses += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN]
    if "requestBody" in operation or any(parameter["in"] == "path" for parameter in operation.get("parameters", [])):
        statuses += [HTTPStatus.NOT_FOUND]  # what the path or the body refers to
    if verb != "get":
        statuses += [HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS]
    if "requestBody" in operation:
        statuses += [HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]
    return statuses


def internal_operation(name: str, request: Any, response: Any = OpenApiTypes.OBJECT) -> Callable[[View], View]:
    """Describes an operation that workers call, for the tests; docs/protocol.md is its documentation for people."""
    responses = {200: response, 204: None, 410: ErrorShape}
    return extend_schema(operation_id=name, request=request, responses=responses)


def openapi_document(*, internal: bool = False) -> dict[str, Any]:
    """The document of the public endpoints, or of those that workers call (`internal`)."""
    patterns = [each for each in get_resolver().url_patterns if str(each.pattern).startswith(INTERNAL) == internal]
    document: dict[str, Any] = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return document


def openapi_yaml() -> str:
    raw: bytes = OpenApiYamlRenderer().render(openapi_document(), renderer_context={})  # type: ignore[no-untyped-call]
    return HEADER + raw.decode()
