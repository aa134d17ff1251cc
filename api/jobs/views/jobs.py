"""Endpoints of jobs for people. Parse, call one service, respond."""

from functools import partial
from typing import Any

from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.catalog.selectors import template_version
from api.jobs.filters import FIELDS, FILTERS, fields_of, filters_of, jobs_filter
from api.jobs.models import Job
from api.jobs.schemas import SPEC_FIELDS, JobRowShape, JobShape, job_rows, job_schemas
from api.jobs.selectors import job_find, job_in, jobs_of
from api.jobs.services.control import (
    Command,
    JobEdit,
    job_cancel,
    job_cancel_forced,
    job_control,
    job_delete,
    job_edit,
    job_pause,
    job_resume,
)
from api.jobs.services.submit import JobRequest, PreviewRequest, RerunRequest, job_create, job_rerun, preview_create
from api.openapi import page_of
from api.paging import PAGE, Cursor
from trainers.contract.spec import Contract

KEY = OpenApiParameter("Idempotency-Key", str, OpenApiParameter.HEADER, description="The same key gives the same job.")
QUEUED = {
    200: OpenApiResponse(JobShape, description="The job of this key, queued before"),
    201: OpenApiResponse(JobShape, description="A new job"),
}


class ControlRequest(Contract):
    command: Command


class CancelRequest(Contract):
    force: bool = False
    """End a live attempt in the books now, without waiting for its worker."""


class JobsView(APIView):
    @extend_schema(operation_id="jobs_list", parameters=[*FILTERS, FIELDS, *PAGE], responses=page_of(JobRowShape))
    def get(self, request: Request) -> Response:
        """Jobs of the project, newest first, without what their specs hold unless `fields` names it."""
        fields = fields_of(request)
        jobs = jobs_filter(jobs_of(project_of(request)), filters_of(request))
        shown = jobs if fields else jobs.defer("spec")
        left_out = {*SPEC_FIELDS}.difference(fields)
        return Cursor().respond(shown, request, partial(job_rows, fields=fields), exclude=left_out)

    @extend_schema(operation_id="jobs_create", parameters=[KEY], request=JobRequest, responses=QUEUED)
    def post(self, request: Request) -> Response:
        """Queues a job."""
        job, created = job_create(
            project=project_of(request),
            request=JobRequest.model_validate(request.data),
            by=actor_of(request),
            idempotency_key=request.headers.get("Idempotency-Key"),
        )
        return _respond_read(request, job, status=201 if created else 200)


class JobView(APIView):
    @extend_schema(operation_id="jobs_show", responses=JobShape)
    def get(self, request: Request, ref: str) -> Response:
        """One job, by its id or the first characters of it."""
        return _respond(job_find(jobs_of(project_of(request)), ref))

    @extend_schema(operation_id="jobs_edit", request=JobEdit, responses=JobShape)
    def patch(self, request: Request, ref: str) -> Response:
        """Changes priority (while it is queued), notes or labels. What is left out stays."""
        edit = JobEdit.model_validate(request.data)
        return _respond_read(request, job_edit(job_id=_id(request, ref), edit=edit, by=actor_of(request)))

    @extend_schema(operation_id="jobs_delete", responses={204: None})
    def delete(self, request: Request, ref: str) -> Response:
        """Deletes an ended job with its log, curves and files. 409 while it lives, or while its adaptor is there."""
        job_delete(job_id=_id(request, ref), by=actor_of(request))
        return Response(status=204)


class JobRerunView(APIView):
    @extend_schema(operation_id="jobs_rerun", parameters=[KEY], request=RerunRequest, responses=QUEUED)
    def post(self, request: Request, ref: str) -> Response:
        """Queues the job again, on the same inputs by version, with what the body changes; an empty one is a clone."""
        job, created = job_rerun(
            parent=job_find(Job.objects.filter(project=project_of(request)).select_related("project"), ref),
            request=RerunRequest.model_validate(request.data),
            by=actor_of(request),
            idempotency_key=request.headers.get("Idempotency-Key"),
        )
        return _respond_read(request, job, status=201 if created else 200)


class JobCancelView(APIView):
    @extend_schema(operation_id="jobs_cancel", request=CancelRequest, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Stops the job for good, with a checkpoint and a partial adaptor where there is something to keep.

        With `force` the job is cancelled at once, whatever its worker does: what it has not published is lost.
        """
        force = CancelRequest.model_validate(request.data or {}).force
        cancel = job_cancel_forced if force else job_cancel
        return _respond_read(request, cancel(job_id=_id(request, ref), by=actor_of(request)))


class JobPauseView(APIView):
    @extend_schema(operation_id="jobs_pause", request=None, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Stops the job with a checkpoint, to be resumed."""
        return _respond_read(request, job_pause(job_id=_id(request, ref), by=actor_of(request)))


class JobResumeView(APIView):
    @extend_schema(operation_id="jobs_resume", request=None, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Queues a paused, cancelled or failed job again; it goes on from its last checkpoint."""
        return _respond_read(request, job_resume(job_id=_id(request, ref), by=actor_of(request)))


class JobControlView(APIView):
    @extend_schema(operation_id="jobs_control", request=ControlRequest, responses=JobShape)
    def post(self, request: Request, ref: str) -> Response:
        """Asks a running job for a checkpoint or for samples now."""
        command = ControlRequest.model_validate(request.data).command
        return _respond_read(request, job_control(job_id=_id(request, ref), command=command, by=actor_of(request)))


class TemplatePreviewView(APIView):
    @extend_schema(operation_id="templates_preview", request=PreviewRequest, responses={201: JobShape})
    def post(self, request: Request, ref: str) -> Response:
        """Queues a job that shows what one of the template would see: crops and captions, or tokens.

        Its samples, and `samples/report.json` among them, are read as those of any job.
        """
        project = project_of(request)
        template_version(project, ref, "name")
        preview = PreviewRequest.model_validate(request.data)
        job = preview_create(project=project, template=ref, request=preview, by=actor_of(request))
        return _respond_read(request, job, status=201)


def _id(request: Request, ref: str) -> Any:
    return job_in(project_of(request), ref).pk


def _respond_read(request: Request, job: Job, *, status: int = 200) -> Response:
    """Reads the job again, with the rows that are shown beside it."""
    return _respond(jobs_of(project_of(request)).get(pk=job.pk), status=status)


def _respond(job: Job, *, status: int = 200) -> Response:
    return Response(job_schemas([job])[0].model_dump(), status=status)
