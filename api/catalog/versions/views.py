"""Datasets and base models: list, show, upload, with the same views for both; previews and captions of datasets."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.accounts.models import Project
from api.audit.names import ref_read
from api.catalog.checking.report import BLOCK_ITEMS, block_name
from api.catalog.models import DatasetVersion, Upload, VersionState
from api.catalog.selectors import dataset_version, latest_ready, records, versions_of
from api.catalog.versions.check_run import preview_prefix
from api.catalog.versions.create import AnyVersion, version_create
from api.catalog.versions.derived import dataset_derive
from api.catalog.versions.schemas import (
    CaptionsRequest,
    DatasetDetailShape,
    DatasetShape,
    NameRequest,
    PreviewItemShape,
    UploadRequest,
    VersionRequest,
    version_detail,
    version_summary,
)
from api.catalog.versions.uploads import Record, record_create, upload_create, upload_deadline, upload_join
from api.errors import Problem
from api.openapi import page_of
from api.paging import Cursor
from api.storage import storage
from api.upload_links import Parts

PAGE_ITEMS = 50
MAX_ITEMS = 200
CURSOR = OpenApiParameter("cursor", str, description="From `next`.")
LIMIT = OpenApiParameter("limit", int, description=f"Items of a page, at most {MAX_ITEMS}.")
DERIVED = dict.fromkeys((200, 201, 202), DatasetDetailShape)
"""Responses of a call that derives a version: an equal one exists, it is new, it is checked later."""
SEARCH = OpenApiParameter("search", str, description="Part of the name.")


class RecordsView(APIView):
    kind = ""

    def get(self, request: Request) -> Response:
        """Newest first, each with its latest version."""
        rows = records(project_of(request), self.kind)
        if text := request.query_params.get("search"):
            rows = rows.filter(name__icontains=text)
        return Cursor().respond(rows, request, lambda page: summaries(page, self.kind))

    def post(self, request: Request) -> Response:
        """Makes an empty record, to upload to. 409 where the name is taken."""
        name = NameRequest.model_validate(request.data).name
        record = record_create(project=project_of(request), kind=self.kind, name=name)
        return Response(version_summary(record, None, []).model_dump(), status=201)


class RecordView(APIView):
    kind = ""

    def get(self, request: Request, ref: str) -> Response:
        """One version with its files: `name` is the latest ready one, `name@3` exactly that one, whatever its state."""
        record, version, rows = version_or_404(project_of(request), self.kind, ref)
        return Response(version_detail(record, version, rows).model_dump())


class UploadsView(APIView):
    kind = ""

    def post(self, request: Request, name: str) -> Response:
        """Gives signed links to PUT each file; then POST the upload's id to `versions`."""
        record = record_or_404(project_of(request), self.kind, name)
        body = UploadRequest.model_validate(request.data)
        files = [file.model_dump() for file in body.files]
        options = {"unpack": body.unpack, "strip_metadata": body.strip_metadata}
        return Response(upload_create(record=record, kind=self.kind, files=files, **options).model_dump())


class UploadCompleteView(APIView):
    kind = ""

    def post(self, request: Request, name: str, upload_id: uuid.UUID) -> Response:
        """Joins the parts of one file once all were sent; the same again changes nothing."""
        record = record_or_404(project_of(request), self.kind, name)
        upload = upload_or_404(record, self.kind, upload_id)
        return Response(upload_join(upload=upload, parts=Parts.model_validate(request.data)).model_dump())


class VersionsView(APIView):
    kind = ""

    def post(self, request: Request, name: str) -> Response:
        """Checks the upload and makes it the next version (201); the same content again is the same version (200).

        A large upload is checked later: 202, and the version's `state` says when it is ready or why it was refused.
        """
        record = record_or_404(project_of(request), self.kind, name)
        upload = upload_or_404(record, self.kind, VersionRequest.model_validate(request.data).upload)
        version, created = version_create(record=record, upload=upload, by=actor_of(request))
        return version_response(version, self.kind, created=created)


class DatasetCaptionsView(APIView):
    @extend_schema(
        operation_id="datasets_captions",
        request=CaptionsRequest,
        responses=DERIVED,
    )
    def post(self, request: Request, ref: str) -> Response:
        """Makes a version with other captions (201); no image is sent again. The same captions: the same version."""
        project = project_of(request)
        version_or_404(project, "datasets", ref)
        body = CaptionsRequest.model_validate(request.data)
        base = dataset_version(project, ref, "name")
        if base.details.get("kind", "images") != "images":
            message = f"{base} holds {base.details['kind']}; captions are of images"
            raise Problem("invalid", f"{message}.", fields={"name": [message]})
        version, created = dataset_derive(
            record=base.record,
            base=base,
            captions=body.captions,
            column=body.column,
            source={"captions_of": str(base)},
            by=actor_of(request),
        )
        return version_response(version, "datasets", created=created)


class DatasetPreviewView(APIView):
    @extend_schema(operation_id="datasets_preview", parameters=[CURSOR, LIMIT], responses=page_of(PreviewItemShape))
    def get(self, request: Request, ref: str) -> Response:
        """Images with caption and thumbnail, or rows, in the order of the dataset."""
        start, limit = _count(request, "cursor", 0), _count(request, "limit", PAGE_ITEMS)
        _, version, _ = version_or_404(project_of(request), "datasets", ref)
        items, following = preview_page(version, start=start, limit=max(1, min(limit, MAX_ITEMS)))
        address = request.build_absolute_uri()
        following_url = None if following is None else replace_query_param(address, "cursor", following)
        return Response({"results": [item.model_dump() for item in items], "next": following_url})


def record_or_404(project: Project, kind: str, name: str) -> Record:
    record: Record | None = records(project, kind).filter(name=name).first()
    if record is None:
        raise Http404(f"There is no {name!r} among the {kind} of project {project.name!r}.")
    return record


def version_or_404(project: Project, kind: str, ref: str) -> tuple[Record, Any, list[Any]]:
    """The record, the version that `ref` refers to (None if none is ready), and all versions, oldest first."""
    name, number = ref_read(ref, "name")
    record = record_or_404(project, kind, name)
    rows = list(versions_of([record], kind).select_related("record").defer("files"))
    if number is None:
        return record, latest_ready(rows), rows
    version = next((row for row in rows if row.version == number), None)
    if version is None:
        existing = ", ".join(str(row.version) for row in rows) or "none"
        raise Http404(f"{name!r} has no version {number}; it has {existing}.")
    return record, version, rows


def upload_or_404(record: Record, kind: str, upload_id: uuid.UUID) -> Upload:
    since = upload_deadline(timezone.now())
    upload = Upload.objects.filter(pk=upload_id, kind=kind, record_id=record.pk, created__gte=since).first()
    if upload is None:
        raise Http404(f"There is no upload {upload_id} of {record.name!r}, or it is too old.")
    return upload


def summaries(rows: list[Any], kind: str) -> list[DatasetShape]:
    """One more query for a page, whatever its length."""
    by_record: dict[Any, list[Any]] = {}
    for version in versions_of(rows, kind).defer("files"):
        by_record.setdefault(version.record_id, []).append(version)
    pairs = ((row, by_record.get(row.pk, [])) for row in rows)
    return [version_summary(row, latest_ready(versions), versions) for row, versions in pairs]


def version_response(version: AnyVersion, kind: str, *, created: bool) -> Response:
    """202 while the version is checked, 201 for a new one, 200 for an existing one."""
    rows = list(versions_of([version.record], kind).defer("files"))
    status = 202 if version.state == VersionState.CHECKING else 201 if created else 200
    return Response(version_detail(version.record, version, rows).model_dump(), status=status)


def preview_page(
    version: DatasetVersion | None, *, start: int, limit: int
) -> tuple[list[PreviewItemShape], int | None]:
    """Items `start` to `start + limit`, and the start of the next page; None at the end."""
    if version is None or version.state != VersionState.READY:
        return [], None
    total = int(version.details.get("num_preview", 0))
    stop = min(start + limit, total)
    prefix = preview_prefix(version.key)
    items = [PreviewItemShape.of(item, prefix) for item in _preview_items(prefix, start, stop)]
    return items, stop if stop < total else None


def _preview_items(prefix: str, start: int, stop: int) -> Iterator[dict[str, Any]]:
    for number in range(start // BLOCK_ITEMS, -(-stop // BLOCK_ITEMS)):
        raw = b"".join(storage().open_range(prefix + block_name(number)))
        first = number * BLOCK_ITEMS
        yield from json.loads(raw)[max(0, start - first) : stop - first]


def _count(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        message = f"expected a whole number, got {text!r:.100}"
        raise Problem("invalid", f"{name}: {message}.", fields={name: [message]})
    return int(text)
