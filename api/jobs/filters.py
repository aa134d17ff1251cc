"""The filters of a list of jobs."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from django.db.models import Exists, OuterRef, Q, QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter
from pydantic import AfterValidator, AwareDatetime, Field
from rest_framework.request import Request

from api.audit.names import ref_read
from api.catalog.models import Adaptor
from api.jobs.models import Job, JobInput, JobLabel
from api.jobs.schemas import SPEC_FIELDS
from api.jobs.states import State
from trainers.contract.spec import Contract

REF = "name, or name@version for exactly that one"
FILTERS = [
    OpenApiParameter("state", str, description="One or several states, separated by commas."),
    OpenApiParameter("method", str),
    OpenApiParameter("search", str, description="Part of the name."),
    OpenApiParameter("template", str, description=f"The template that it came from: {REF}."),
    OpenApiParameter("dataset", str, description=f"A dataset that it reads: {REF}."),
    OpenApiParameter("model", str, description=f"A base model that it reads: {REF}."),
    OpenApiParameter("adaptor", str, description=f"An adaptor that it reads or made: {REF}."),
    OpenApiParameter("label", str),
    OpenApiParameter("parent", OpenApiTypes.UUID, description="The job that it repeats."),
    OpenApiParameter("created_after", OpenApiTypes.DATETIME, description="With an offset, as 2026-01-31T00:00:00Z."),
    OpenApiParameter("created_before", OpenApiTypes.DATETIME),
]
FIELDS = OpenApiParameter(
    "fields", str, description=f"What else each job shows, separated by commas: {', '.join(SPEC_FIELDS)}."
)


def _in_utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"expected a time within the years 1 to 9999 of UTC, got {time.isoformat()}") from None


UtcTime = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class JobFilters(Contract):
    state: str = ""
    method: str = ""
    search: str = Field("", max_length=200)
    template: str = ""
    dataset: str = ""
    model: str = ""
    adaptor: str = ""
    label: str = Field("", max_length=50)
    parent: UUID | None = None
    created_after: UtcTime | None = None
    created_before: UtcTime | None = None


def filters_of(request: Request) -> JobFilters:
    """Raises ValidationError that names the parameter."""
    values = request.query_params
    return JobFilters.model_validate({name: values[name] for name in JobFilters.model_fields if values.get(name)})


def jobs_filter(jobs: QuerySet[Job], filters: JobFilters) -> QuerySet[Job]:
    """Raises ValueError for an unknown state, Problem for an invalid reference."""
    conditions: list[Any] = [
        Q(state__in=states_of(filters.state)) if filters.state else None,
        Q(method=filters.method) if filters.method else None,
        Q(name__icontains=filters.search) if filters.search else None,
        ref_condition("template", filters.template, "template") if filters.template else None,
        _reads("dataset", filters.dataset) if filters.dataset else None,
        _reads("model", filters.model) if filters.model else None,
        Q(_reads("adaptor", filters.adaptor)) | Q(_made_by_job(filters.adaptor)) if filters.adaptor else None,
        Exists(JobLabel.objects.filter(job=OuterRef("pk"), name=filters.label)) if filters.label else None,
        Q(parent=filters.parent) if filters.parent else None,
        Q(created__gte=filters.created_after) if filters.created_after else None,
        Q(created__lt=filters.created_before) if filters.created_before else None,
    ]
    return jobs.filter(*(condition for condition in conditions if condition is not None))


def fields_of(request: Request) -> list[str]:
    """The SPEC_FIELDS that the request names. Raises ValueError for another name."""
    fields = [name for name in request.query_params.get("fields", "").split(",") if name]
    if unknown := [name for name in fields if name not in SPEC_FIELDS]:
        raise ValueError(f"unknown field {unknown[0]!r:.100}; known fields: {', '.join(SPEC_FIELDS)}")
    return fields


def states_of(text: str) -> list[str]:
    """From names separated by commas. Raises ValueError."""
    states = [name for name in text.split(",") if name]
    if unknown := [name for name in states if name not in State.values]:
        raise ValueError(f"unknown state {unknown[0]!r:.100}; known states: {', '.join(State.values)}")
    return states


def ref_condition(column: str, ref: str, field: str) -> Q:
    """Whether the column, which holds name@version, matches `ref`."""
    name, number = ref_read(ref, field)
    return Q(**{f"{column}__startswith": f"{name}@"}) if number is None else Q(**{column: f"{name}@{number}"})


def _reads(role: str, ref: str) -> Exists:
    return Exists(JobInput.objects.filter(ref_condition("name", ref, role), job=OuterRef("pk"), role=role))


def _made_by_job(ref: str) -> Exists:
    name, number = ref_read(ref, "adaptor")
    adaptors = Adaptor.objects.filter(job=OuterRef("pk"), name=name)
    return Exists(adaptors if number is None else adaptors.filter(version=number))
