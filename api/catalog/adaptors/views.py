"""Adaptors: list, show, annotate. Only finished jobs create them."""

from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import QuerySet
from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.audit.names import ref_read
from api.catalog.adaptors.manifest_query import adaptors_filter, adaptors_sort, conditions_read
from api.catalog.adaptors.services import AdaptorEdit, adaptor_edit
from api.catalog.models import Adaptor
from api.catalog.selectors import adaptor_of, adaptors_of
from api.catalog.versions.schemas import LinkedFileShape, linked_files
from api.catalog.versions.views import SEARCH
from api.openapi import Schema, page_of
from api.paging import PAGE, Cursor

TEXT_FACTS = (
    "training_method",
    "perbatch_cutoff",
    "resp_cutoff_ratio",
    "loss_weight_type",
    "geo_p",
    "loss_norm_type",
    "mask_prompt_loss",
    "eos_padding",
)
"""Keys of a text adaptor's manifest that are useful to compare adaptors."""
DROPPED = ("truncated", "filtered", "without_response")
"""Counts in `dataset` of the manifest."""


class AdaptorSummaryShape(Schema):
    name: str
    version: int
    job: UUID
    method: str
    base_model: str | None
    """name@version"""
    trigger_word: str
    partial: bool
    """The job was stopped before its last step."""
    digest: str
    size_bytes: int
    metrics: dict[str, Any]
    """The last values that the manifest has."""
    facts: dict[str, Any]
    """What a masked_text job decided and dropped: training_method, cutoffs, weighting, ...; empty for other methods."""
    tags: list[str]
    notes: str
    created: datetime

    @classmethod
    def of(cls, adaptor: Adaptor) -> Self:
        """`adaptor`: from `selectors.adaptors_of`, which fetches its base model and tags."""
        return cls.model_validate(_values(adaptor))


class AdaptorDetailShape(AdaptorSummaryShape):
    manifest: dict[str, Any]
    files: list[LinkedFileShape]

    @classmethod
    def of(cls, adaptor: Adaptor) -> Self:
        files = linked_files(adaptor.key, adaptor.files)
        return cls.model_validate({**_values(adaptor), "manifest": adaptor.manifest, "files": files})


def _values(adaptor: Adaptor) -> dict[str, Any]:
    metrics = adaptor.manifest.get("metrics")
    return {
        "name": adaptor.name,
        "version": adaptor.version,
        "job": adaptor.job_id,
        "method": adaptor.method,
        "base_model": str(adaptor.base_model) if adaptor.base_model else None,
        "trigger_word": adaptor.trigger_word,
        "partial": adaptor.partial,
        "digest": adaptor.digest,
        "size_bytes": adaptor.size_bytes,
        "metrics": metrics if isinstance(metrics, dict) else {},
        "facts": _facts(adaptor.manifest),
        "tags": sorted(tag.name for tag in adaptor.tags.all()),
        "notes": adaptor.notes,
        "created": adaptor.created,
    }


def _facts(manifest: dict[str, Any]) -> dict[str, Any]:
    dataset = manifest.get("dataset")
    counts = {name: dataset[name] for name in DROPPED if name in dataset} if isinstance(dataset, dict) else {}
    return {**{name: manifest[name] for name in TEXT_FACTS if name in manifest}, **counts}


FILTERS = [
    SEARCH,
    OpenApiParameter("name", str, description="All versions of this name."),
    OpenApiParameter("method", str, description="Only those made by this method."),
    OpenApiParameter("base_model", str, description="name or name@version."),
    OpenApiParameter("tag", str),
    OpenApiParameter("partial", str, enum=["true", "false"]),
    OpenApiParameter(
        "sort",
        str,
        description="created, name, version, size_bytes, or a path into the manifest as metrics.loss; - before it: "
        "highest first. Newest first where left out.",
    ),
    OpenApiParameter(
        "conditions",
        {"type": "object", "additionalProperties": {"type": "string"}},
        style="form",
        explode=True,
        description="Any number of <path>[__<operator>]=<value>, as metrics.loss__lt=0.1 or params.lora_r=8. Paths "
        "start with manifest., params. or metrics.; operators are ne, lt, lte, gt, gte, in, contains, exists.",
    ),
]


class SortedCursor(Cursor):
    """Rows with equal sort values are skipped by an offset, which may be large."""

    offset_cutoff = 1_000_000


class AdaptorsView(APIView):
    @extend_schema(operation_id="adaptors_list", responses=page_of(AdaptorSummaryShape), parameters=[*FILTERS, *PAGE])
    def get(self, request: Request) -> Response:
        """Every version, newest first, or as `sort` says."""
        query = request.query_params
        adaptors = adaptors_filter(_columns_filter(request), conditions_read(query.dict().items()))
        pages = SortedCursor()
        adaptors, pages.ordering = adaptors_sort(adaptors, query.get("sort") or "-created")
        return pages.respond(adaptors, request, lambda rows: map(AdaptorSummaryShape.of, rows))


class AdaptorView(APIView):
    @extend_schema(operation_id="adaptors_show", responses=AdaptorDetailShape)
    def get(self, request: Request, ref: str) -> Response:
        """One version with its manifest and files: `name` is the latest whole one, `name@3` exactly that one."""
        return Response(AdaptorDetailShape.of(adaptor_or_404(request, ref)).model_dump())

    @extend_schema(operation_id="adaptors_edit", request=AdaptorEdit, responses=AdaptorDetailShape)
    def patch(self, request: Request, ref: str) -> Response:
        """Changes notes or tags. What is left out stays."""
        adaptor = adaptor_or_404(request, ref)
        adaptor_edit(adaptor=adaptor, edit=AdaptorEdit.model_validate(request.data), by=actor_of(request))
        return Response(AdaptorDetailShape.of(adaptor_or_404(request, str(adaptor))).model_dump())


def adaptor_or_404(request: Request, ref: str) -> Adaptor:
    adaptor = adaptor_of(adaptors_of(project_of(request)), ref, "name")
    if adaptor is None:
        raise Http404(f"There is no adaptor {ref!r} in project {project_of(request).name!r}.")
    return adaptor


def _columns_filter(request: Request) -> QuerySet[Adaptor]:
    query = request.query_params
    adaptors = adaptors_of(project_of(request)).defer("files", "details", "base_model__files", "base_model__details")
    if text := query.get("search"):
        adaptors = adaptors.filter(name__icontains=text)
    columns = {"name": "name", "method": "method", "tag": "tags__name"}
    adaptors = adaptors.filter(**{column: query[word] for word, column in columns.items() if query.get(word)})
    if base := query.get("base_model"):
        name, number = ref_read(base, "base_model")
        adaptors = adaptors.filter(base_model__record__name=name)
        adaptors = adaptors if number is None else adaptors.filter(base_model__version=number)
    if partial := query.get("partial"):
        if partial not in ("true", "false"):
            raise ValueError(f"partial must be true or false, got {partial!r:.100}")
        adaptors = adaptors.filter(partial=partial == "true")
    return adaptors
