"""What a project has done and holds: the history of sampling, the room that it takes."""

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
from api.jobs.samplings import SamplingShape, sampling_shapes, samplings_filter
from api.jobs.services.dataset_from_samples import SamplesRequest, dataset_from_samples
from api.jobs.usage import UsageShape, usage
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
        given = {name: request.query_params.get(name, "") for name in SamplingsQuery.model_fields}
        wanted = SamplingsQuery.model_validate(given)
        found = samplings_filter(Job.objects.filter(project=project_of(request)), **wanted.model_dump())
        pages = Cursor()
        rows = pages.paginate_queryset(found, request, view=self) or []
        return pages.get_paginated_response(sampling_shapes(list(rows)))


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
        asked = SamplesRequest.model_validate(request.data)
        assert isinstance(record, Dataset)
        version, made = dataset_from_samples(project=project, record=record, request=asked, by=actor_of(request))
        return version_response(version, "datasets", created=made)


class UsageView(APIView):
    @extend_schema(operation_id="usage_show", responses=UsageShape)
    def get(self, request: Request) -> Response:
        """How much of the storage the project fills, and with what."""
        return Response(usage(project_of(request)))
