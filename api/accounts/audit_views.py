"""`GET audit`: who changed what, for the project's admins."""

from typing import Any

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import token_of
from api.accounts.project_views import ById
from api.accounts.selectors import audit_of
from api.accounts.shapes import AuditShape
from api.audit.models import Audit
from api.openapi import page_of
from api.paging import PAGE

FILTERS = (
    OpenApiParameter("object", str, description="As in job:<uuid>, token:<uuid>, project:<uuid>."),
    OpenApiParameter("actor", str, description="As in user:anna."),
    OpenApiParameter("kind", str, description="As in job_cancelled."),
)


class AuditView(APIView):
    read_scope = "admin"

    @extend_schema(operation_id="audit_list", parameters=[*FILTERS, *PAGE], responses=page_of(AuditShape))
    def get(self, request: Request) -> Response:
        """What happened in the project, newest first. For admins."""
        wanted = {name: request.query_params.get(name, "") for name in ("object", "actor", "kind")}
        pages = ById()
        rows: Any = pages.paginate_queryset(audit_of(token_of(request), **wanted), request, view=self)
        return pages.get_paginated_response([_row(row) for row in rows])


def _row(row: Audit) -> dict[str, Any]:
    return {name: getattr(row, name) for name in AuditShape.model_fields}
