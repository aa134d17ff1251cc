"""Lists are `{results, next}`; `next` is the URL of the following page or null."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from drf_spectacular.utils import OpenApiParameter
from pydantic import BaseModel
from rest_framework.exceptions import NotFound
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request
from rest_framework.response import Response

from api.errors import Problem

PAGE = (OpenApiParameter("cursor", str, description="From `next`."), OpenApiParameter("limit", int))
"""The query parameters of every paginated list."""


class Cursor(CursorPagination):
    """Newest first; a cursor stays valid while rows are added. `?limit=` up to 200."""

    page_size = 50
    page_size_query_param = "limit"
    max_page_size = 200
    ordering: Any = ("-created", "-id")

    def respond(
        self,
        queryset: Any,
        request: Request,
        schemas: Callable[[list[Any]], Iterable[BaseModel]],
        *,
        exclude: set[str] | None = None,
    ) -> Response:
        """The requested page of `queryset`; `schemas` builds the response schemas of its rows, in order.

        `exclude`: fields of the schemas that the page leaves out.
        """
        rows = self.paginate_queryset(queryset, request) or []
        return self.get_paginated_response([schema.model_dump(exclude=exclude) for schema in schemas(rows)])

    def paginate_queryset(self, queryset: Any, request: Request, view: Any = None) -> list[Any] | None:
        try:
            return super().paginate_queryset(queryset, request, view)
        except (NotFound, ValidationError, ValueError, TypeError, OverflowError):
            if self.cursor_query_param not in request.query_params:
                raise
            message = "is not one of ours"
            hint = "Follow `next` as it was given."
            raise Problem("bad_cursor", f"cursor: {message}.", hint=hint, fields={"cursor": [message]}) from None

    def get_paginated_response(self, data: Sequence[Any]) -> Response:
        return Response({"results": data, "next": self.get_next_link()})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        return {
            "type": "object",
            "required": ["results", "next"],
            "properties": {"results": schema, "next": {"type": "string", "format": "uri", "nullable": True}},
        }


class ById(Cursor):
    """For rows whose ids ascend."""

    ordering = "-id"
