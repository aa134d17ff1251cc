"""The OpenAPI description: its shapes, and the file `docs/openapi.yaml` that is made from the views."""

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
from pydantic import BaseModel, create_model

INTERNAL = "internal/"
View = TypeVar("View", bound=Callable[..., Any])
HEADER = "# Made by `python -m api openapi` from the views; a test fails when it is not current.\n"


class ErrorShape(BaseModel):
    """Every answer but 2xx and 3xx."""

    code: str
    """For programs; stays the same when the words change."""
    message: str
    hint: str
    fields: dict[str, list[Any]]
    """What is wrong with which value, by its dotted path, as in params.lora_r."""


@cache
def page_of(shape: type[BaseModel]) -> type[BaseModel]:
    """`{results, next}` of that shape."""
    name = f"{shape.__name__.removesuffix('Shape')}Page"
    page: type[BaseModel] = create_model(name, results=(list[shape], ...), next=(str | None, ...))  # type: ignore[valid-type]
    return page


class UserToken(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "api.accounts.authentication.TokenAuthentication"
    name = "userToken"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:  # noqa: ARG002 its hook
        return build_bearer_security_scheme_object("Authorization", "Bearer")


class WorkerToken(UserToken):  # type: ignore[no-untyped-call]
    target_class = "api.accounts.authentication.WorkerAuthentication"
    name = "workerToken"


class AttemptToken(UserToken):  # type: ignore[no-untyped-call]
    target_class = "api.jobs.agent.authentication.AttemptAuthentication"
    name = "attemptToken"


def errors_add(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """drf-spectacular's hook: says which refusals each operation knows; a view names those beyond them itself."""
    schemas = result.setdefault("components", {}).setdefault("schemas", {})
    schemas[ErrorShape.__name__] = ErrorShape.model_json_schema()
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{ErrorShape.__name__}"}}}
    for operations in result["paths"].values():
        for verb, operation in operations.items():
            for code in _refusals(verb, operation):
                operation["responses"].setdefault(str(code), {"description": code.phrase, "content": content})
            operation["responses"] = dict(sorted(operation["responses"].items()))
    return result


def _refusals(verb: str, operation: dict[str, Any]) -> list[HTTPStatus]:
    found = [HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_ACCEPTABLE]
    if operation.get("security", [{}]) != [{}]:
        found += [HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN]
    if "requestBody" in operation or any(one["in"] == "path" for one in operation.get("parameters", [])):
        found += [HTTPStatus.NOT_FOUND]  # what the address or the body names
    if verb != "get":
        found += [HTTPStatus.CONFLICT, HTTPStatus.TOO_MANY_REQUESTS]
    if "requestBody" in operation:
        found += [HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE]
    return found


def inside(name: str, request: Any) -> Callable[[View], View]:
    """Describes a call of workers, for the tests; people read docs/protocol.md."""
    answers = {200: OpenApiTypes.OBJECT, 204: None, 410: ErrorShape}
    return extend_schema(operation_id=name, request=request, responses=answers)


def described(*, internal: bool = False) -> dict[str, Any]:
    """The description of the addresses that people call, or of those that workers call."""
    patterns = [one for one in get_resolver().url_patterns if str(one.pattern).startswith(INTERNAL) == internal]
    made: dict[str, Any] = SchemaGenerator(patterns=patterns).get_schema(request=None, public=True)  # type: ignore[no-untyped-call]
    return made


def openapi_yaml() -> str:
    raw: bytes = OpenApiYamlRenderer().render(described(), renderer_context={})  # type: ignore[no-untyped-call]
    return HEADER + raw.decode()
