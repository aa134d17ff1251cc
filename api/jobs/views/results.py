"""What a job says and leaves: curves, events, samples, artifacts."""

from typing import Annotated, Any

from django.http import Http404
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import BaseModel, Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.jobs.curves import DEFAULT_POINTS, MAX_POINTS, MIN_POINTS, curves
from api.jobs.models import Artifact, Manifest
from api.jobs.services.inputs import job_spec
from api.jobs.shapes import ArtifactShape, EventShape, MetricsShape, artifact_shape, event_shape
from api.jobs.superseded import events_shown, samples_shown
from api.jobs.views.jobs import job_of
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


class ManifestShape(BaseModel):
    attempt: int
    """n of the attempt that wrote it."""
    manifest: dict[str, Any]


class InputFileShape(BaseModel):
    path: str
    size: int
    sha256: str
    url: str


class SpecInputShape(BaseModel):
    sha256: str
    files: list[InputFileShape]


class SpecShape(BaseModel):
    spec: dict[str, Any]
    """With the checkpoint from which the job would go on; of a job that succeeded, without."""
    inputs: dict[str, SpecInputShape]
    """By folder below `in/`."""


class OldestFirst(Cursor):
    ordering = ("id",)


class JobMetricsView(APIView):
    @extend_schema(operation_id="jobs_metrics", parameters=[NAMES, POINTS], responses=MetricsShape)
    def get(self, request: Request, ref: str) -> Response:
        """Curves, thinned to a number of points that can be drawn."""
        names = [name for given in request.query_params.getlist("name") for name in given.split(",") if name]
        wanted = PointsQuery.model_validate(_given(request, PointsQuery))
        return Response({"series": curves(job_of(request, ref), names, num_points=wanted.points)})


class JobEventsView(APIView):
    @extend_schema(
        operation_id="jobs_events",
        parameters=[OpenApiParameter("after", OpenApiTypes.INT)],
        responses=page_of(EventShape),
    )
    def get(self, request: Request, ref: str) -> Response:
        """Events after the seq `after`, oldest first, in pages of at most 1000."""
        wanted = EventsQuery.model_validate(_given(request, EventsQuery))
        job = job_of(request, ref)
        events = events_shown(job.events.filter(seq__gt=wanted.after), job.pk)
        events = events.order_by("seq").select_related("attempt")[:MAX_EVENTS]
        results = [event_shape(event, event.attempt.n if event.attempt else None) for event in events]
        more = len(results) == MAX_EVENTS
        following = request.build_absolute_uri(f"{request.path}?after={results[-1]['seq']}") if more else None
        return Response({"results": results, "next": following})


class JobManifestView(APIView):
    @extend_schema(operation_id="jobs_manifest", responses=ManifestShape)
    def get(self, request: Request, ref: str) -> Response:
        """The manifest of the job's last attempt that left one: results, files, versions. 404 where none did yet."""
        job = job_of(request, ref)
        manifest = Manifest.objects.filter(attempt__job=job).select_related("attempt").order_by("-attempt__n").first()
        if manifest is None:
            raise Http404(f"No attempt of job {job.name!r} has left a manifest.")
        return Response({"attempt": manifest.attempt.n, "manifest": manifest.data})


class JobSpecView(APIView):
    @extend_schema(operation_id="jobs_spec", responses=SpecShape)
    def get(self, request: Request, ref: str) -> Response:
        """What a trainer by hand reads: the job's spec, and signed links of the files of each folder below `in/`."""
        return Response(job_spec(job_of(request, ref)))


class JobArtifactsView(APIView):
    @extend_schema(operation_id="jobs_artifacts", parameters=[KIND, *ARTIFACTS], responses=page_of(ArtifactShape))
    def get(self, request: Request, ref: str) -> Response:
        """What was published for the job, oldest first, with signed links."""
        return artifacts_page(self, request, ref, ArtifactsQuery.model_validate(_given(request, ArtifactsQuery)))


class JobSamplesView(APIView):
    @extend_schema(operation_id="jobs_samples", parameters=ARTIFACTS, responses=page_of(ArtifactShape))
    def get(self, request: Request, ref: str) -> Response:
        """Images that the job made, oldest first, with signed links."""
        given = {**_given(request, ArtifactsQuery), "kind": Artifact.Kind.SAMPLE}
        return artifacts_page(self, request, ref, ArtifactsQuery.model_validate(given))


def artifacts_page(view: APIView, request: Request, ref: str, wanted: ArtifactsQuery) -> Response:
    named = {"kind": wanted.kind, "step": wanted.step, "attempt__n": wanted.attempt}
    job = job_of(request, ref)
    found = Artifact.objects.filter(job=job, **{column: value for column, value in named.items() if value is not None})
    found = found if wanted.attempt is not None else samples_shown(found, [job.pk])
    found = found.filter(path__icontains=wanted.search) if wanted.search else found
    pages = OldestFirst()
    rows = pages.paginate_queryset(found.select_related("attempt"), request, view=view) or []
    return pages.get_paginated_response([artifact_shape(artifact) for artifact in rows])


def _given(request: Request, query: type[Contract]) -> dict[str, str]:
    return {name: request.query_params[name] for name in query.model_fields if name in request.query_params}
