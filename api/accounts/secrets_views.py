"""`secrets`: written by admins of the project; values are never returned."""

import re

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.accounts.schemas import SecretRequest, SecretShape
from api.accounts.secrets import secret_delete, secret_or_404, secret_put, secrets_of
from api.errors import ErrorShape, Problem
from api.openapi import page_of
from api.paging import PAGE, Cursor
from trainers.contract.params.base import SECRET_NAME

NAME = OpenApiParameter(
    "name", {"type": "string", "pattern": SECRET_NAME}, OpenApiParameter.PATH, description="Lower case."
)
REFUSED = {401: ErrorShape, 403: ErrorShape, 429: ErrorShape}


class SecretsView(APIView):
    read_scope = "admin"
    """Only admins see which secrets a project has."""

    @extend_schema(
        operation_id="secrets_list",
        parameters=[*PAGE],
        responses={200: page_of(SecretShape), 404: ErrorShape, **REFUSED},
    )
    def get(self, request: Request) -> Response:
        """Names and kinds, never values."""
        secrets = secrets_of(project_of(request))
        return Cursor().respond(secrets, request, lambda rows: map(SecretShape.of, rows))


class SecretView(APIView):
    read_scope = write_scope = "admin"

    @extend_schema(
        operation_id="secrets_show", parameters=[NAME], responses={200: SecretShape, 404: ErrorShape, **REFUSED}
    )
    def get(self, request: Request, name: str) -> Response:
        """One, without its value."""
        return Response(SecretShape.of(secret_or_404(project_of(request), name)).model_dump())

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
        body = _request(request)
        _name_check(name)
        project, by = project_of(request), actor_of(request)
        secret, created = secret_put(project=project, name=name, kind=body.kind, value=body.value, by=by)
        return Response(SecretShape.of(secret).model_dump(), status=201 if created else 200)

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
        message = f"expected 1 to 50 lower-case letters, digits and underscores, a letter first, got {name!r:.60}"
        raise Problem("invalid", f"name: {message}.", fields={"name": [message]})
