"""Endpoints of agents, which hold the token of their attempt. See docs/protocol.md."""

from typing import Any
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.errors import ErrorShape
from api.jobs.agent.authentication import AttemptAuthentication, OwnAttempt
from api.jobs.agent.schemas import (
    FinishedShape,
    HeartbeatShape,
    JoinedFileShape,
    LinksShape,
    PublishedShape,
    RecordedShape,
    UploadsShape,
)
from api.jobs.models import Attempt
from api.jobs.schemas import Incoming
from api.jobs.services.attempt_lifecycle import Heartbeat, attempt_heartbeat, require_live
from api.jobs.services.events import EventBatch, events_record
from api.jobs.services.files import Joining, Publication, Uploads, artifact_publish, upload_join, uploads_grant
from api.jobs.services.finish import Finish, attempt_finish
from api.jobs.services.inputs import attempt_links
from api.jobs.services.log import MAX_BYTES, log_append
from api.openapi import internal_operation
from api.parsing import CleaningJSONParser


class Links(Incoming):
    paths: list[str] = Field(min_length=1, max_length=10_000)


class RawParser(BaseParser):
    media_type = "*/*"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:  # noqa: ARG002
        """Reads one byte more than is allowed, so that too much is noticed."""
        return stream.read(MAX_BYTES + 1)


class AgentView(APIView):
    authentication_classes = (AttemptAuthentication,)
    permission_classes = (OwnAttempt,)
    parser_classes: tuple[type[BaseParser], ...] = (CleaningJSONParser,)


class AttemptHeartbeatView(AgentView):
    @internal_operation("attempt_heartbeat", Heartbeat, HeartbeatShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:
        attempt = attempt_heartbeat(attempt_id=attempt_id, heartbeat=Heartbeat.model_validate(request.data))
        return Response(HeartbeatShape.of(attempt).model_dump())


class AttemptEventsView(AgentView):
    @internal_operation("attempt_events", EventBatch, RecordedShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:
        batch = EventBatch.model_validate(request.data)
        next_seq = events_record(attempt_id=attempt_id, batch=batch)
        return Response(RecordedShape(next_seq=next_seq).model_dump())


class AttemptLogView(AgentView):
    parser_classes = (RawParser,)

    @extend_schema(
        operation_id="attempt_log",
        parameters=[OpenApiParameter("Upload-Offset", int, OpenApiParameter.HEADER, required=True)],
        request={"application/octet-stream": OpenApiTypes.BINARY},
        responses={204: None, 410: ErrorShape},
    )
    def patch(self, request: Request, attempt_id: UUID) -> Response:
        offset = request.headers.get("Upload-Offset", "")
        if not offset.isdecimal():
            raise ValueError(f"the header Upload-Offset must be a number of bytes, got {offset!r}")
        data = request.data if isinstance(request.data, bytes) else b""
        end = log_append(attempt_id=attempt_id, offset=int(offset), data=data)
        return Response(status=204, headers={"Upload-Offset": str(end)})


class AttemptUploadsView(AgentView):
    @internal_operation("attempt_uploads", Uploads, UploadsShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:  # noqa: ARG002 checked by OwnAttempt
        files = uploads_grant(attempt=_attempt(request), uploads=Uploads.model_validate(request.data))
        return Response(UploadsShape(files=files).model_dump())


class AttemptUploadCompleteView(AgentView):
    @internal_operation("attempt_uploads_complete", Joining, JoinedFileShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:  # noqa: ARG002
        file = upload_join(attempt=_attempt(request), joining=Joining.model_validate(request.data))
        return Response(JoinedFileShape.model_validate(file.model_dump()).model_dump())


class AttemptArtifactsView(AgentView):
    @internal_operation("attempt_artifacts", Publication, PublishedShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:  # noqa: ARG002
        artifact = artifact_publish(attempt=_attempt(request), publication=Publication.model_validate(request.data))
        return Response(PublishedShape.of(artifact).model_dump())


class AttemptFinishView(AgentView):
    @internal_operation("attempt_finish", Finish, FinishedShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:  # noqa: ARG002
        attempt = attempt_finish(attempt=_attempt(request), finish=Finish.model_validate(request.data))
        return Response(FinishedShape.of(attempt).model_dump())


class AttemptLinksView(AgentView):
    @internal_operation("attempt_links", Links, LinksShape)
    def post(self, request: Request, attempt_id: UUID) -> Response:  # noqa: ARG002
        attempt = _attempt(request)
        require_live(attempt)
        files = attempt_links(attempt, Links.model_validate(request.data).paths)
        return Response(LinksShape.model_validate({"files": files}).model_dump())


def _attempt(request: Request) -> Attempt:
    """The complete row: authentication reads its id alone."""
    assert isinstance(request.auth, Attempt)
    return Attempt.objects.get(pk=request.auth.pk)
