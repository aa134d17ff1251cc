"""Results of a job: curves, events, log, manifest, spec, samples, artifacts."""

import re
from typing import Annotated

from django.http import Http404, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import project_of
from api.errors import Problem
from api.jobs.curves import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, curves
from api.jobs.models import Artifact, Manifest
from api.jobs.schemas import ArtifactShape, EventShape, ManifestShape, MetricsShape, SpecShape
from api.jobs.selectors import events_shown, job_in, samples_shown
from api.jobs.services.inputs import job_spec_and_inputs
from api.jobs.services.log import log_read, log_size
from api.openapi import page_of
from api.paging import Cursor
from trainers.contract.spec import Contract

MAX_EVENTS = 1000
NAMES = OpenApiParameter("name", str, many=True, description="Only these curves; repeated, or separated by commas.")
POINTS = OpenApiParameter(
    "points",
    OpenApiTypes.INT,
    description=f"Most points of a curve, {MIN_POINTS} to {MAX_POINTS}, {DEFAULT_POINTS} where left out. A longer "
    "curve keeps its first and last point, and the lowest and highest of each stretch between.",
)
ARTIFACTS = [
    OpenApiParameter("step", OpenApiTypes.INT),
    OpenApiParameter("attempt", OpenApiTypes.INT, description="n of the attempt that published it."),
    OpenApiParameter("search", str, description="Part of the path."),
    OpenApiParameter("cursor", str, description="From `next`."),
    OpenApiParameter("limit", OpenApiTypes.INT),
]
KIND = OpenApiParameter("kind", str, enum=Artifact.Kind.values)
Step = Annotated[int, Field(ge=0, le=2**31 - 1)]


class PointsQuery(Contract):
    points: int = Field(DEFAULT_POINTS, ge=MIN_POINTS, le=MAX_POINTS)


class EventsQuery(Contract):
    after: int = Field(0, ge=0, lt=2**63)


class ArtifactsQuery(Contract):
    kind: Artifact.Kind | None = None
    step: Step | None = None
    attempt: Step | None = None
    search: str = Field("", max_length=500)


class OldestFirst(Cursor):
    ordering = ("id",)


class JobMetricsView(APIView):
    @extend_schema(operation_id="jobs_metrics", parameters=[NAMES, POINTS], responses=MetricsShape)
    def get(self, request: Request, ref: str) -> Response:
        """Curves, thinned to a number of points that can be drawn."""
        names = [name for value in request.query_params.getlist("name") for name in value.split(",") if name]
        query = PointsQuery.model_validate(_values(request, PointsQuery))
        job = job_in(project_of(request), ref)
        series = curves(job, names, num_points=query.points)
        return Response(MetricsShape.of(series).model_dump(warnings=False))


class JobEventsView(APIView):
    @extend_schema(
        operation_id="jobs_events",
        parameters=[OpenApiParameter("after", OpenApiTypes.INT)],
        responses=page_of(EventShape),
    )
    def get(self, request: Request, ref: str) -> Response:
        """Events after the seq `after`, oldest first, in pages of at most 1000."""
        query = EventsQuery.model_validate(_values(request, EventsQuery))
        job = job_in(project_of(request), ref)
        events = events_shown(job.events.filter(seq__gt=query.after), job.pk)
        page = list(events.order_by("seq").select_related("attempt")[:MAX_EVENTS])
        is_full = len(page) == MAX_EVENTS
        following = request.build_absolute_uri(f"{request.path}?after={page[-1].seq}") if is_full else None
        return Response({"results": [EventShape.of(event).model_dump() for event in page], "next": following})


class JobManifestView(APIView):
    @extend_schema(operation_id="jobs_manifest", responses=ManifestShape)
    def get(self, request: Request, ref: str) -> Response:
        """The manifest of the job's last attempt that left one: results, files, versions. 404 where none did yet."""
        job = job_in(project_of(request), ref)
        manifest = Manifest.objects.filter(attempt__job=job).select_related("attempt").order_by("-attempt__n").first()
        if manifest is None:
            raise Http404(f"No attempt of job {job.name!r} has left a manifest.")
        return Response(ManifestShape.of(manifest).model_dump())


class JobSpecView(APIView):
    @extend_schema(operation_id="jobs_spec", responses=SpecShape)
    def get(self, request: Request, ref: str) -> Response:
        """What a trainer by hand reads: the job's spec, and signed links of the files of each folder below `in/`."""
        spec, inputs = job_spec_and_inputs(job_in(project_of(request), ref))
        return Response(SpecShape.model_validate({"spec": spec, "inputs": inputs}).model_dump())


class JobArtifactsView(APIView):
    @extend_schema(operation_id="jobs_artifacts", parameters=[KIND, *ARTIFACTS], responses=page_of(ArtifactShape))
    def get(self, request: Request, ref: str) -> Response:
        """What was published for the job, oldest first, with signed links."""
        return _artifacts_page(request, ref, ArtifactsQuery.model_validate(_values(request, ArtifactsQuery)))


class JobSamplesView(APIView):
    @extend_schema(operation_id="jobs_samples", parameters=ARTIFACTS, responses=page_of(ArtifactShape))
    def get(self, request: Request, ref: str) -> Response:
        """Images that the job made, oldest first, with signed links."""
        values = {**_values(request, ArtifactsQuery), "kind": Artifact.Kind.SAMPLE}
        return _artifacts_page(request, ref, ArtifactsQuery.model_validate(values))


def _artifacts_page(request: Request, ref: str, query: ArtifactsQuery) -> Response:
    columns = {"kind": query.kind, "step": query.step, "attempt__n": query.attempt}
    job = job_in(project_of(request), ref)
    artifacts = Artifact.objects.filter(
        job=job, **{column: value for column, value in columns.items() if value is not None}
    )
    artifacts = artifacts if query.attempt is not None else samples_shown(artifacts, [job.pk])
    artifacts = artifacts.filter(path__icontains=query.search) if query.search else artifacts
    return OldestFirst().respond(artifacts.select_related("attempt"), request, lambda rows: map(ArtifactShape.of, rows))


def _values(request: Request, query: type[Contract]) -> dict[str, str]:
    """The parameters of the request that `query` has."""
    return {name: request.query_params[name] for name in query.model_fields if name in request.query_params}


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
