"""`GET methods`: what can be run, with the JSON Schema of its parameters."""

from typing import Any, Self

from django.http import Http404
from drf_spectacular.utils import extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.openapi import Schema, page_of
from trainers.contract.params import METHODS
from trainers.contract.params.base import Params, Product


class MethodShape(Schema):
    method: str
    summary: str
    product: Product
    requires: list[str]
    accepts: list[str]
    schema_: dict[str, Any] = Field(alias="schema")
    """JSON Schema of the parameters."""

    @classmethod
    def of(cls, params: type[Params]) -> Self:
        return cls(
            method=params.method,
            summary=params.summary,
            product=params.product,
            requires=list(params.requires),
            accepts=list(params.accepts),
            schema=params.model_json_schema(),
        )


class MethodsView(APIView):
    @extend_schema(operation_id="methods_list", responses=page_of(MethodShape))
    def get(self, request: Request) -> Response:  # noqa: ARG002 - DRF's signature
        """All of them, in one page."""
        return Response(
            {
                "results": [MethodShape.of(METHODS[name]).model_dump(by_alias=True) for name in sorted(METHODS)],
                "next": None,
            }
        )


class MethodView(APIView):
    @extend_schema(operation_id="methods_show", responses=MethodShape)
    def get(self, request: Request, method: str) -> Response:  # noqa: ARG002 - DRF's signature
        """One method with the schema of its parameters."""
        if method not in METHODS:
            raise Http404(f"There is no method {method!r}; known methods: {', '.join(sorted(METHODS))}.")
        return Response(MethodShape.of(METHODS[method]).model_dump(by_alias=True))
