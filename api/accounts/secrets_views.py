"""`secrets`: written by admins of the project, read back by nobody."""

import re
from datetime import datetime
from typing import Any, Literal

from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, Field, field_validator
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.accounts.models import ProjectSecret
from api.accounts.secrets import secret_delete, secret_or_404, secret_put, secrets_of
from api.errors import ErrorShape, Problem
from api.openapi import page_of
from api.paging import PAGE, Cursor
from trainers.contract.params.secrets import SECRET_NAME
from trainers.contract.spec import Contract

NAME = OpenApiParameter(
    "name", {"type": "string", "pattern": SECRET_NAME}, OpenApiParameter.PATH, description="Lower case."
)
VALUE = r"^[!-~]{8,4000}$"
REFUSED = {401: ErrorShape, 403: ErrorShape, 429: ErrorShape}


class SecretRequest(Contract):
    kind: Literal["hub", "wandb", "generic"]
    """Says where a trainer finds it: HF_TOKEN, WANDB_API_KEY, or ANNEAL_SECRET_<NAME>."""
    value: str = Field(json_schema_extra={"writeOnly": True, "pattern": VALUE})
    """8 to 4000 printable ASCII characters without blanks, so that it can be found in a log and masked."""

    @field_validator("value", mode="before")
    @classmethod
    def _maskable(cls, value: object) -> object:
        """Before any check that would repeat the value in its error."""
        if not isinstance(value, str) or not re.fullmatch(VALUE, value):
            raise ValueError("expected 8 to 4000 printable ASCII characters without blanks")
        return value


class SecretShape(BaseModel):
    name: str
    kind: str
    variable: str
    created: datetime
    rotated: datetime | None
    """When the value was last replaced."""


class SecretsView(APIView):
    read_scope = "admin"
    """Which secrets a project has is nobody else's business."""

    @extend_schema(
        operation_id="secrets_list",
        parameters=[*PAGE],
        responses={200: page_of(SecretShape), 404: ErrorShape, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """Names and kinds, never values."""
        pages = Cursor()
        rows = pages.paginate_queryset(secrets_of(project_of(request)), request, view=self) or []
        return pages.get_paginated_response([_shape(row) for row in rows])


class SecretView(APIView):
    read_scope = write_scope = "admin"

    @extend_schema(
        operation_id="secrets_show", parameters=[NAME], responses={200: SecretShape, 404: ErrorShape, **REFUSED}
    )
    def get(self, request: Request, name: str) -> Response:
        """One, without its value."""
        return Response(_shape(secret_or_404(project_of(request), name)))

    @extend_schema(
        operation_id="secrets_put",
        parameters=[NAME],
        request=SecretRequest,
        responses={
            200: SecretShape, 201: SecretShape, 400: ErrorShape, 409: ErrorShape, 413: ErrorShape, 415: ErrorShape,
            **REFUSED,
        },
    )  # fmt: skip
    def put(self, request: Request, name: str) -> Response:
        """Sets the value: 201 for a new secret, 200 where it replaces one. 409 where the installation has no key."""
        wanted = _request(request)
        _name_check(name)
        project, by = project_of(request), actor_of(request)
        secret, made = secret_put(project=project, name=name, kind=wanted.kind, value=wanted.value, by=by)
        return Response(_shape(secret), status=201 if made else 200)

    @extend_schema(operation_id="secrets_delete", parameters=[NAME], responses={204: None, 404: ErrorShape, **REFUSED})
    def delete(self, request: Request, name: str) -> Response:
        """Attempts that run keep what they were given; later ones fail for want of it."""
        secret_delete(secret=secret_or_404(project_of(request), name), by=actor_of(request))
        return Response(status=204)


def _request(request: Request) -> SecretRequest:
    if not isinstance(request.data, dict):
        raise ValueError("expected a JSON object with kind and value")
    return SecretRequest.model_validate(request.data)


def _name_check(name: str) -> None:
    if not re.fullmatch(SECRET_NAME, name):
        said = f"expected 1 to 50 lower-case letters, digits and underscores, a letter first, got {name!r:.60}"
        raise Problem("invalid", f"name: {said}.", fields={"name": [said]})


def _shape(secret: ProjectSecret) -> dict[str, Any]:
    return SecretShape.model_validate(secret, from_attributes=True).model_dump(mode="json")
