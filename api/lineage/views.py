"""Endpoints that need catalog and jobs: zip, lineage, uses and deletion of versions; datasets of samples."""

import hashlib
import json
from collections.abc import Iterator
from functools import partial

from django.http import Http404, StreamingHttpResponse
from django.utils import timezone
from django.utils.http import content_disposition_header
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.audit.names import ref_read
from api.catalog.adaptors import views as adaptor_views
from api.catalog.adaptors.views import adaptor_or_404
from api.catalog.adaptors.zip_stream import Entry, in_threads, zip_pieces
from api.catalog.models import Adaptor, Dataset
from api.catalog.versions import views as version_views
from api.catalog.versions.views import DERIVED, record_or_404, version_or_404, version_response
from api.lineage.dataset_from_samples import SamplesRequest, dataset_from_samples
from api.lineage.deletes import adaptor_delete, record_delete, version_delete
from api.lineage.uses import LineageShape, UsedByShape, used_version
from api.parsing import FixedNegotiation
from api.storage import storage

ZIP = "application/zip"


class AdaptorView(adaptor_views.AdaptorView):
    """Shows and annotates one version, and deletes it where nothing needs it."""

    @extend_schema(operation_id="adaptors_delete", responses={204: None})
    def delete(self, request: Request, ref: str) -> Response:
        """Deletes one version. 409 names the unfinished jobs and the templates that need it."""
        adaptor_delete(adaptor=adaptor_or_404(request, ref), by=actor_of(request))
        return Response(status=204)


class RecordView(version_views.RecordView):
    """Shows a dataset or base model, and deletes it where nothing needs it."""

    def delete(self, request: Request, ref: str) -> Response:
        """`name@3` deletes that version, `name` all of them with the name. 409 names what uses it."""
        _, number = ref_read(ref, "name")
        record, version, _ = version_or_404(project_of(request), self.kind, ref)
        if number:
            version_delete(version=version, by=actor_of(request))
        else:
            record_delete(record=record, by=actor_of(request))
        return Response(status=204)


class AdaptorZipView(APIView):
    content_negotiation_class = FixedNegotiation

    @extend_schema(operation_id="adaptors_zip", responses={(200, ZIP): OpenApiTypes.BINARY})
    def get(self, request: Request, ref: str) -> StreamingHttpResponse:
        """All files of one version as one archive. One that ends early was cut off: it has no directory."""
        adaptor = adaptor_or_404(request, ref)
        folder = f"{adaptor.name}-v{adaptor.version}"
        pieces = zip_pieces(_entries(adaptor, folder), timezone.now())
        disposition = content_disposition_header(as_attachment=True, filename=f"{folder}.zip")
        return StreamingHttpResponse(in_threads(pieces), content_type=ZIP, headers={"Content-Disposition": disposition})


class AdaptorLineageView(APIView):
    @extend_schema(operation_id="adaptors_lineage", responses=LineageShape)
    def get(self, request: Request, ref: str) -> Response:
        """Job, template version, inputs and attempts that it came from, and where to queue the same again."""
        return Response(LineageShape.of(adaptor_or_404(request, ref)).model_dump())


class AdaptorUsedByView(APIView):
    @extend_schema(operation_id="adaptors_used_by", responses=UsedByShape)
    def get(self, request: Request, ref: str) -> Response:
        """Jobs that read it, templates that name it, adaptors that were trained on it."""
        return Response(UsedByShape.of(adaptor_or_404(request, ref)).model_dump())


class UsedByView(APIView):
    kind = ""

    def get(self, request: Request, ref: str) -> Response:
        """Jobs that read this version, templates that name it, adaptors that were trained on it."""
        version = used_version(project_of(request), self.kind, ref)
        if version is None:
            raise Http404(f"There is no {ref!r} among the {self.kind} of project {project_of(request).name!r}.")
        return Response(UsedByShape.of(version).model_dump())


def _entries(adaptor: Adaptor, folder: str) -> Iterator[Entry]:
    """The manifest last: its presence means that the archive is complete."""
    for file in adaptor.files:
        read = partial(storage().open_range, f"{adaptor.key}/{file['path']}")
        yield Entry(f"{folder}/{file['path']}", file["size"], file["sha256"], read)
    manifest = json.dumps(adaptor.manifest, indent=2, ensure_ascii=False).encode()
    digest = hashlib.sha256(manifest).hexdigest()
    if all(file["path"] != "manifest.json" for file in adaptor.files):
        yield Entry(f"{folder}/manifest.json", len(manifest), digest, lambda: iter([manifest]))


class DatasetSamplesView(APIView):
    @extend_schema(
        operation_id="datasets_from_samples",
        request=SamplesRequest,
        responses=DERIVED,
    )
    def post(self, request: Request, name: str) -> Response:
        """Makes a version of chosen images of jobs, each with its prompt as caption, or adds them to the latest."""
        project = project_of(request)
        record = record_or_404(project, "datasets", name)
        samples = SamplesRequest.model_validate(request.data)
        assert isinstance(record, Dataset)
        version, created = dataset_from_samples(project=project, record=record, request=samples, by=actor_of(request))
        return version_response(version, "datasets", created=created)
