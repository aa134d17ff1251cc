"""`POST datasets/{ref}/captions`."""

from typing import Annotated

from drf_spectacular.utils import extend_schema
from pydantic import Field
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.catalog.answers import version_detail
from api.catalog.models import VersionState
from api.catalog.selectors import dataset_version, versions_of
from api.catalog.shapes import DatasetDetailShape
from api.catalog.versions.create import AnyVersion
from api.catalog.versions.derived import dataset_derive
from api.catalog.versions.views import version_or_404
from api.errors import Problem
from trainers.contract.spec import Contract

Caption = Annotated[str, Field(max_length=10_000)]


class CaptionsRequest(Contract):
    captions: dict[str, Caption] = Field(min_length=1, max_length=10_000)
    """New text by the image's path; the others keep theirs."""
    column: str = Field("", max_length=100)
    """Of the metadata, where it has several; left out: the one that captions are read from."""


class DatasetCaptionsView(APIView):
    @extend_schema(
        operation_id="datasets_captions",
        request=CaptionsRequest,
        responses=dict.fromkeys((200, 201, 202), DatasetDetailShape),
    )
    def post(self, request: Request, ref: str) -> Response:
        """Makes a version with other captions (201); no image is sent again. The same captions: the same version."""
        project = project_of(request)
        version_or_404(project, "datasets", ref)
        asked = CaptionsRequest.model_validate(request.data)
        base = dataset_version(project, ref, "name")
        if base.details.get("kind", "images") != "images":
            said = f"{base} holds {base.details['kind']}; captions are of images"
            raise Problem("invalid", f"{said}.", fields={"name": [said]})
        version, made = dataset_derive(
            record=base.record,
            base=base,
            captions=asked.captions,
            column=asked.column,
            source={"captions_of": str(base)},
            by=actor_of(request),
        )
        return version_answer(version, made=made)


def version_answer(version: AnyVersion, *, made: bool) -> Response:
    """As `POST versions` answers."""
    rows = list(versions_of([version.record], "datasets").defer("files"))
    status = 202 if version.state == VersionState.CHECKING else 201 if made else 200
    return Response(version_detail(version.record, version, rows), status=status)
