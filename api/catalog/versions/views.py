"""Datasets and base models: list, show, upload. The same four views for both."""

import uuid
from typing import Any

from django.http import Http404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.accounts.models import Project
from api.audit.names import ref_read
from api.catalog.answers import version_detail, version_summary
from api.catalog.models import Upload, VersionState
from api.catalog.selectors import latest_ready, records, versions_of
from api.catalog.shapes import NameRequest, UploadRequest, VersionRequest
from api.catalog.versions.create import version_create
from api.catalog.versions.services import Record, record_create, upload_create
from api.catalog.versions.uploads import upload_deadline
from api.paging import Cursor

SEARCH = OpenApiParameter("search", str, description="Part of the name.")


class RecordsView(APIView):
    kind = ""

    def get(self, request: Request) -> Response:
        """Newest first, each with its latest version."""
        found = records(project_of(request), self.kind)
        if text := request.query_params.get("search"):
            found = found.filter(name__icontains=text)
        pages = Cursor()
        rows = pages.paginate_queryset(found, request, view=self) or []
        return pages.get_paginated_response(summaries(rows, self.kind))

    def post(self, request: Request) -> Response:
        """Makes an empty record, to upload to. 409 where the name is taken."""
        name = NameRequest.model_validate(request.data).name
        made = record_create(project=project_of(request), kind=self.kind, name=name)
        return Response(version_summary(made, None, []), status=201)


class RecordView(APIView):
    kind = ""

    def get(self, request: Request, ref: str) -> Response:
        """One version with its files: `name` is the latest ready one, `name@3` exactly that one, whatever its state."""
        record, version, rows = version_or_404(project_of(request), self.kind, ref)
        return Response(version_detail(record, version, rows))


class UploadsView(APIView):
    kind = ""

    def post(self, request: Request, name: str) -> Response:
        """Gives signed links to PUT each file; then POST the upload's id to `versions`."""
        record = record_or_404(project_of(request), self.kind, name)
        asked = UploadRequest.model_validate(request.data)
        files = [file.model_dump() for file in asked.files]
        options = {"unpack": asked.unpack, "strip_metadata": asked.strip_metadata}
        return Response(upload_create(record=record, kind=self.kind, files=files, **options))


class VersionsView(APIView):
    kind = ""

    def post(self, request: Request, name: str) -> Response:
        """Checks the upload and makes it the next version (201); the same content again is the same version (200).

        A large upload is checked later: 202, and the version's `state` says when it is ready or why it was refused.
        """
        record = record_or_404(project_of(request), self.kind, name)
        upload = upload_or_404(record, self.kind, VersionRequest.model_validate(request.data).upload)
        version, made = version_create(record=record, upload=upload, by=actor_of(request))
        rows = list(versions_of([record], self.kind).defer("files"))
        status = 202 if version.state == VersionState.CHECKING else 201 if made else 200
        return Response(version_detail(record, version, rows), status=status)


def record_or_404(project: Project, kind: str, name: str) -> Record:
    found: Record | None = records(project, kind).filter(name=name).first()
    if found is None:
        raise Http404(f"There is no {name!r} among the {kind} of project {project.name!r}.")
    return found


def version_or_404(project: Project, kind: str, ref: str) -> tuple[Record, Any, list[Any]]:
    """The record, the version that `ref` means (None where none is ready), and all versions, oldest first."""
    name, number = ref_read(ref, "name")
    record = record_or_404(project, kind, name)
    rows = list(versions_of([record], kind).select_related("record").defer("files"))
    if number is None:
        return record, latest_ready(rows), rows
    wanted = next((row for row in rows if row.version == number), None)
    if wanted is None:
        known = ", ".join(str(row.version) for row in rows) or "none"
        raise Http404(f"{name!r} has no version {number}; it has {known}.")
    return record, wanted, rows


def upload_or_404(record: Record, kind: str, upload_id: uuid.UUID) -> Upload:
    since = upload_deadline(timezone.now())
    found = Upload.objects.filter(pk=upload_id, kind=kind, record_id=record.pk, created__gte=since).first()
    if found is None:
        raise Http404(f"There is no upload {upload_id} of {record.name!r}, or it is too old.")
    return found


def summaries(rows: list[Any], kind: str) -> list[dict[str, Any]]:
    """Two queries for a page, whatever its length."""
    by_record: dict[Any, list[Any]] = {}
    for version in versions_of(rows, kind).defer("files"):
        by_record.setdefault(version.record_id, []).append(version)
    found = ((row, by_record.get(row.pk, [])) for row in rows)
    return [version_summary(row, latest_ready(versions), versions) for row, versions in found]
