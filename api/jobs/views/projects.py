"""Endpoints of a project: history of sampling, storage use, worker hosts."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.environment import environment
from api.jobs.filters import REF, ref_condition
from api.jobs.models import Artifact, Job, JobInput, Worker
from api.jobs.schemas import UsageShape, WorkerShape
from api.jobs.selectors import params_stored, samples_shown
from api.jobs.services.budgets import worker_release
from api.jobs.services.workers import worker_drain, worker_drain_undo
from api.openapi import Schema, page_of
from api.paging import PAGE, Cursor
from api.storage import storage
from trainers.contract.params import METHODS
from trainers.contract.spec import Contract


class SampledAdaptor(Schema):
    name: str
    """name@version"""
    scale: float


class SampledImage(Schema):
    path: str
    url: str
    """Signed link; images of a sampling are small enough to be their own thumbnails."""
    size_bytes: int
    details: dict[str, Any]

    @classmethod
    def of(cls, artifact: Artifact, file: dict[str, Any]) -> Self:
        key = f"{artifact.attempt.prefix}/{file['path']}"
        url = storage().presign_get(key, expires_seconds=environment().link_seconds).url
        return cls(path=file["path"], url=url, size_bytes=file["size"], details=artifact.details)


class SamplingShape(Schema):
    job: UUID
    name: str
    state: str
    created: datetime
    prompt: str
    negative_prompt: str
    seeds: list[int]
    """One for each image, or for each row of a comparison."""
    compare: bool
    model: str | None
    adaptors: list[SampledAdaptor]
    params: dict[str, Any]
    images: list[SampledImage]
    rerun_url: str
    """POST there to make the same images again, or with `params` others."""

    @classmethod
    def of(cls, job: Job, images: list[Artifact]) -> Self:
        sampling, inputs = params_stored(job).image_sampling(), job.spec["inputs"]
        assert sampling is not None, f"{job.method} samples no images"
        adaptors = inputs.get("adaptors", [])
        scales = sampling.adaptor_scales or (1.0,) * len(adaptors)
        return cls(
            job=job.pk,
            name=job.name,
            state=job.state,
            created=job.created,
            prompt=sampling.prompt,
            negative_prompt=sampling.negative_prompt,
            seeds=list(sampling.seeds),
            compare=sampling.compare,
            model=inputs["model"]["name"] if inputs.get("model") else None,
            adaptors=[
                SampledAdaptor(name=ref["name"], scale=scale) for ref, scale in zip(adaptors, scales, strict=True)
            ],
            params=job.spec["params"],
            images=[SampledImage.of(artifact, file) for artifact in images for file in artifact.files],
            rerun_url=f"/api/v1/jobs/{job.pk}/rerun",
        )


def samplings_filter(jobs: QuerySet[Job], *, adaptor: str, model: str, search: str) -> QuerySet[Job]:
    """Sampling jobs whose prompt or name contains `search` and that used the adaptor and base model. Raises Problem."""
    prompt_fields = {name: method.prompt_field for name, method in METHODS.items() if method.prompt_field}
    samplings = jobs.filter(method__in=prompt_fields)
    for role, ref in (("adaptor", adaptor), ("model", model)):
        if ref:
            used = JobInput.objects.filter(ref_condition("name", ref, role), job=OuterRef("pk"), role=role)
            samplings = samplings.filter(Exists(used))
    if not search:
        return samplings
    matches = Q(name__icontains=search)
    for method, field in prompt_fields.items():
        matches |= Q(("method", method), (f"spec__params__{field}__icontains", search))
    return samplings.filter(matches)


def sampling_schemas(jobs: list[Job]) -> list[SamplingShape]:
    """Two queries for the images of all."""
    images: dict[Any, list[Artifact]] = {}
    rows = Artifact.objects.filter(job__in=jobs, kind=Artifact.Kind.SAMPLE)
    for row in samples_shown(rows, [job.pk for job in jobs]).select_related("attempt").order_by("id"):
        images.setdefault(row.job_id, []).append(row)
    return [SamplingShape.of(job, images.get(job.pk, [])) for job in jobs]


FILTERS = [
    OpenApiParameter("adaptor", str, description=f"Made with it: {REF}."),
    OpenApiParameter("model", str, description=f"Made with it: {REF}."),
    OpenApiParameter("search", str, description="Part of the prompt or the name."),
]


class SamplingsQuery(Contract):
    adaptor: str = ""
    model: str = ""
    search: str = Field("", max_length=500)


class SamplingsView(APIView):
    @extend_schema(operation_id="samplings_list", parameters=[*FILTERS, *PAGE], responses=page_of(SamplingShape))
    def get(self, request: Request) -> Response:
        """Images that were asked for, newest first, with signed links to what came."""
        values = {name: request.query_params.get(name, "") for name in SamplingsQuery.model_fields}
        query = SamplingsQuery.model_validate(values)
        jobs = samplings_filter(Job.objects.filter(project=project_of(request)), **query.model_dump())
        return Cursor().respond(jobs, request, sampling_schemas)


class UsageView(APIView):
    @extend_schema(operation_id="usage_show", responses=UsageShape)
    def get(self, request: Request) -> Response:
        """How much of the storage the project fills, and with what."""
        return Response(UsageShape.of(project_of(request)).model_dump())


class LastSeenFirst(Cursor):
    ordering = ("-last_seen", "-id")


class WorkersView(APIView):
    @extend_schema(operation_id="workers_list", parameters=[*PAGE], responses=page_of(WorkerShape))
    def get(self, request: Request) -> Response:
        """Worker hosts, last seen first."""
        return LastSeenFirst().respond(Worker.objects.all(), request, lambda rows: map(WorkerShape.of, rows))


class WorkerDrainView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="workers_drain", request=None, responses=WorkerShape)
    def post(self, request: Request, worker_id: str) -> Response:
        """Nothing new for this worker; what it runs goes back to the queue with a checkpoint."""
        return _respond(worker_drain(worker_id=worker_id, by=actor_of(request)))

    @extend_schema(operation_id="workers_drain_undo", responses={200: WorkerShape})
    def delete(self, request: Request, worker_id: str) -> Response:
        """The worker takes jobs again; what went back to the queue stays there until somebody claims it."""
        return _respond(worker_drain_undo(worker_id=worker_id, by=actor_of(request)))


class WorkerReleaseView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="workers_release", request=None, responses=WorkerShape)
    def post(self, request: Request, worker_id: str) -> Response:
        """Ends a worker's quarantine: it is given jobs again, and the failures before no longer count."""
        return _respond(worker_release(worker_id=worker_id, by=actor_of(request)))


def _respond(worker: Worker) -> Response:
    return Response(WorkerShape.of(worker).model_dump())
