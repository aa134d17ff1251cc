"""The endpoint of a job's log: plain text by byte range."""

import re

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from api.accounts.authentication import project_of
from api.errors import Problem
from api.jobs.logs import log_read, log_size
from api.jobs.selectors import job_in

MAX_BYTES = 2**20
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


class JobLogView(APIView):
    @extend_schema(
        operation_id="jobs_log",
        parameters=[OpenApiParameter("offset", int), OpenApiParameter("limit", int)],
        responses={(200, "text/plain"): OpenApiTypes.STR},
    )
    def get(self, request: Request, ref: str) -> HttpResponse:
        """Bytes of the log from `offset`, at most `limit` and 1 MiB; `X-Log-Size` is its size now."""
        job = job_in(project_of(request), ref)
        size = log_size(job)
        start, limit = _requested_range(request, size)
        data = log_read(job, start, min(limit, MAX_BYTES))
        response = HttpResponse(
            data, content_type="text/plain; charset=utf-8", status=206 if "Range" in request.headers else 200
        )
        response["X-Log-Size"] = str(size)
        response["Accept-Ranges"] = "bytes"
        if response.status_code == 206:
            response["Content-Range"] = f"bytes {start}-{start + len(data) - 1}/{size}"
        return response


def _requested_range(request: Request, size: int) -> tuple[int, int]:
    """(offset, limit) from the Range header or the query."""
    if "Range" not in request.headers:
        values = {"offset": "0", "limit": "65536", **request.query_params.dict()}
        for name in ("offset", "limit"):
            if not values[name].isdecimal():
                raise ValueError(f"{name} must be a whole number from 0, got {values[name]!r}")
        return int(values["offset"]), int(values["limit"])
    match = RANGE.fullmatch(request.headers["Range"].strip())
    if match is None or match.groups() == ("", ""):
        raise Problem(
            "bad_range", f"Expected Range: bytes=<first>-<last>, got {request.headers['Range']!r}.", status=416
        )
    first, last = match.groups()
    start = int(first) if first else max(0, size - int(last))
    end = int(last) if first and last else size - 1
    if start >= size or end < start:
        raise Problem("bad_range", f"The log has {size} bytes.", status=416)
    return start, end - start + 1
