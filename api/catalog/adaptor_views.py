"""Adaptors: list and show. They are made by finished jobs only."""

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.auth import project_of
from api.catalog.answers import adaptor_detail, adaptor_summary
from api.catalog.selectors import adaptor_of, adaptors_of
from api.catalog.shapes import AdaptorDetailShape, AdaptorSummaryShape
from api.catalog.views import PAGE, SEARCH
from api.openapi import page_of
from api.paging import Cursor

METHOD = OpenApiParameter("method", str, description="Only those made by this method.")


class AdaptorsView(APIView):
    @extend_schema(
        operation_id="adaptors_list", responses=page_of(AdaptorSummaryShape), parameters=[SEARCH, METHOD, *PAGE]
    )
    def get(self, request: Request) -> Response:
        """Every version, newest first."""
        found = adaptors_of(project_of(request)).defer("files", "manifest", "details", "base_model__files")
        if text := request.query_params.get("search"):
            found = found.filter(name__icontains=text)
        if method := request.query_params.get("method"):
            found = found.filter(method=method)
        pages = Cursor()
        rows = pages.paginate_queryset(found, request, view=self) or []
        return pages.get_paginated_response([adaptor_summary(row) for row in rows])


class AdaptorView(APIView):
    @extend_schema(operation_id="adaptors_show", responses=AdaptorDetailShape)
    def get(self, request: Request, ref: str) -> Response:
        """One version with its manifest and files: `name` is the latest whole one, `name@3` exactly that one."""
        adaptor = adaptor_of(adaptors_of(project_of(request)), ref, "name")
        if adaptor is None:
            raise Http404(f"There is no adaptor {ref!r} in project {project_of(request).name!r}.")
        return Response(adaptor_detail(adaptor))
