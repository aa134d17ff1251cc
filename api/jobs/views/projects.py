"""Endpoints of a project: history of sampling, datasets from samples, storage use."""

from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.catalog.models import Dataset
from api.catalog.versions.schemas import DatasetDetailShape
from api.catalog.versions.views import record_or_404, version_response
from api.jobs.filters import REF
from api.jobs.models import Job
from api.jobs.samplings import SamplingShape, sampling_schemas, samplings_filter
from api.jobs.schemas import UsageShape
from api.jobs.services.dataset_from_samples import SamplesRequest, dataset_from_samples
from api.openapi import page_of
from api.paging import PAGE, Cursor
from trainers.contract.spec import Contract

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


class DatasetSamplesView(APIView):
    @extend_schema(
        operation_id="datasets_from_samples",
        request=SamplesRequest,
        responses=dict.fromkeys((200, 201, 202), DatasetDetailShape),
    )
    def post(self, request: Request, name: str) -> Response:
        """Makes a version of chosen images of jobs, each with its prompt as caption, or adds them to the latest."""
        project = project_of(request)
        record = record_or_404(project, "datasets", name)
        samples = SamplesRequest.model_validate(request.data)
        assert isinstance(record, Dataset)
        version, created = dataset_from_samples(project=project, record=record, request=samples, by=actor_of(request))
        return version_response(version, "datasets", created=created)


class UsageView(APIView):
    @extend_schema(operation_id="usage_show", responses=UsageShape)
    def get(self, request: Request) -> Response:
        """How much of the storage the project fills, and with what."""
        return Response(UsageShape.of(project_of(request)).model_dump())
