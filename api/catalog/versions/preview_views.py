"""`GET datasets/{ref}/preview`."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from api.accounts.authentication import project_of
from api.catalog.shapes import PreviewItemShape
from api.catalog.versions.previews import preview_page
from api.catalog.versions.views import version_or_404
from api.errors import Problem
from api.openapi import page_of

PAGE_ITEMS = 50
MAX_ITEMS = 200
CURSOR = OpenApiParameter("cursor", str, description="From `next`.")
LIMIT = OpenApiParameter("limit", int, description=f"Items of a page, at most {MAX_ITEMS}.")


class DatasetPreviewView(APIView):
    @extend_schema(operation_id="datasets_preview", parameters=[CURSOR, LIMIT], responses=page_of(PreviewItemShape))
    def get(self, request: Request, ref: str) -> Response:
        """Images with caption and thumbnail, or rows, in the order of the dataset."""
        start, limit = _whole(request, "cursor", 0), _whole(request, "limit", PAGE_ITEMS)
        _, version, _ = version_or_404(project_of(request), "datasets", ref)
        items, following = preview_page(version, start=start, limit=max(1, min(limit, MAX_ITEMS)))
        address = request.build_absolute_uri()
        following_url = None if following is None else replace_query_param(address, "cursor", following)
        return Response({"results": items, "next": following_url})


def _whole(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isascii() or not given.isdigit() or len(given) > 9:
        said = f"expected a whole number, got {given!r:.100}"
        raise Problem("invalid", f"{name}: {said}.", fields={name: [said]})
    return int(given)
