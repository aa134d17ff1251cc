"""What users call about jobs. Parse, one service, respond."""

from typing import Any

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.auth import project_of
from api.jobs.models import Artifact, Job
from api.jobs.selectors import curves, job_find, jobs_filter, jobs_of
from api.jobs.services.control import Command, job_cancel, job_control, job_pause, job_resume
from api.jobs.services.submit import JobRequest, job_create
from api.jobs.shapes import ArtifactShape, EventShape, JobShape, artifact_shape, event_shape, job_shape, job_shapes
from api.openapi import list_of, page_of
from api.paging import Cursor
from trainers.spec import Contract

MAX_EVENTS = 1000
FILTERS = [
    OpenApiParameter("state", str, description="One or several states, separated by commas."),
    OpenApiParameter("method", str),
    OpenApiParameter("search", str, description="Part of the name."),
    OpenApiParameter("cursor", str),
    OpenApiParameter("limit", int),
]
KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="The same key gives the same job.")


class ControlRequest(Contract):
    command: Command


class JobsView(APIView):
    @extend_schema(operation_id="jobs_list", parameters=FILTERS, responses=page_of(JobShape))
    def get(self, request: Request) -> Response:
        """Jobs of the project, newest first."""
        wanted = {name: request.query_params.get(name, "") for name in ("state", "method", "search")}
        pages = Cursor()
        found = pages.paginate_queryset(jobs_filter(jobs_of(project_of(request)), **wanted), request, view=self)
        return pages.get_paginated_response(job_shapes(list(found or [])))

    @extend_schema(operation_id="jobs_create", parameters=[KEY], request=JobRequest, responses={201: JobShape})
    def post(self, request: Request) -> Response:
        """Queues a job."""
        job, created = job_create(
            project=project_of(request),
            request=JobRequest.model_validate(request.data),
            by=actor(request),
            idempotency_key=request.headers.get("Idempotency-Key"),
        )
        return Response(_shown(request, job), status=201 if created else 200)


class JobView(APIView):
    @extend_schema(operation_id="jobs_show", responses=JobShape)
    def get(self, request: Request, ref: str) -> Response:
        """One job, by its id or the first characters of it."""
        return Response(job_shape(job_of(request, ref)))


class JobCancelView(APIView):
    @extend_schema(operation_id="jobs_cancel", request=None, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Stops the job for good, with a checkpoint and a partial adaptor where there is something to keep."""
        return Response(_shown(request, job_cancel(job_id=_id(request, ref), by=actor(request))))


class JobPauseView(APIView):
    @extend_schema(operation_id="jobs_pause", request=None, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Stops the job with a checkpoint, to be resumed."""
        return Response(_shown(request, job_pause(job_id=_id(request, ref), by=actor(request))))


class JobResumeView(APIView):
    @extend_schema(operation_id="jobs_resume", request=None, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Queues a paused, cancelled or failed job again; it goes on from its last checkpoint."""
        return Response(_shown(request, job_resume(job_id=_id(request, ref), by=actor(request))))


class JobControlView(APIView):
    @extend_schema(operation_id="jobs_control", request=ControlRequest, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Asks a running job for a checkpoint or for samples now."""
        command = ControlRequest.model_validate(request.data).command
        return Response(_shown(request, job_control(job_id=_id(request, ref), command=command, by=actor(request))))


class JobMetricsView(APIView):
    @extend_schema(
        operation_id="jobs_metrics", parameters=[OpenApiParameter("name", str)], responses=OpenApiTypes.OBJECT
    )
    def get(self, request: Request, ref: str) -> Response:
        """Curves: `{series: {loss: [[step, value], ...]}}`."""
        return Response({"series": curves(job_of(request, ref), request.query_params.get("name", ""))})


class JobEventsView(APIView):
    @extend_schema(
        operation_id="jobs_events",
        parameters=[OpenApiParameter("after", int)],
        responses=list_of(EventShape),
    )
    def get(self, request: Request, ref: str) -> Response:
        """Events after the seq `after`, oldest first, at most 1000."""
        after = _number(request, "after", 0)
        job = job_of(request, ref)
        events = job.events.filter(seq__gt=after).order_by("seq").select_related("attempt")[:MAX_EVENTS]
        return Response([event_shape(event, event.attempt.n if event.attempt else None) for event in events])


class JobArtifactsView(APIView):
    kind = ""

    @extend_schema(responses=page_of(ArtifactShape))
    def get(self, request: Request, ref: str) -> Response:
        """What was published for the job, oldest first, with signed links."""
        found = Artifact.objects.filter(job=job_of(request, ref)).select_related("attempt").order_by("id")
        found = found.filter(kind=self.kind) if self.kind else found
        return Response({"results": [artifact_shape(artifact) for artifact in found], "next": None})


def actor(request: Request) -> str:
    return f"user:{request.user.get_username()}"


def job_of(request: Request, ref: str) -> Job:
    return job_find(jobs_of(project_of(request)), ref)


def _id(request: Request, ref: str) -> Any:
    return job_find(Job.objects.filter(project=project_of(request)), ref).pk


def _shown(request: Request, job: Job) -> dict[str, Any]:
    return job_shape(jobs_of(project_of(request)).get(pk=job.pk))


def _number(request: Request, name: str, default: int) -> int:
    given = request.query_params.get(name, str(default))
    if not given.isdecimal():
        raise ValueError(f"{name} must be a whole number from 0, got {given!r}")
    return int(given)
