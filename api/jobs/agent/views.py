"""Endpoints of worker hosts and of the agents of their attempts. See docs/protocol.md."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal
from uuid import UUID

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema
from pydantic import Field
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.parsers import BaseParser
from rest_framework.permissions import BasePermission, IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import WorkerAuthentication, bearer
from api.accounts.limits import ClaimRate
from api.accounts.tokens import ATTEMPT_PREFIX, token_hash
from api.errors import ErrorShape
from api.jobs.agent.schemas import (
    ClaimShape,
    FinishedShape,
    HeartbeatShape,
    HelloShape,
    HostHeartbeatShape,
    JoinedFileShape,
    LinksShape,
    PublishedShape,
    RecordedShape,
    UploadsShape,
)
from api.jobs.models import Attempt
from api.jobs.schemas import Incoming
from api.jobs.services.attempt_lifecycle import Heartbeat, attempt_heartbeat, require_live
from api.jobs.services.claim import ClaimRequest, attempt_claim
from api.jobs.services.events import EventBatch, events_record
from api.jobs.services.files import Joining, Publication, Uploads, artifact_publish, upload_join, uploads_grant
from api.jobs.services.finish import Finish, attempt_finish
from api.jobs.services.inputs import attempt_links, secrets_open
from api.jobs.services.log import MAX_BYTES, log_append
from api.jobs.services.workers import Hello, worker_goodbye, worker_heartbeat, worker_hello
from api.openapi import internal_operation
from api.parsing import CleaningJSONParser
from trainers.contract.spec import MAX_BIGINT


@dataclass(frozen=True)
class AttemptPrincipal:
    attempt: Attempt
    is_authenticated: ClassVar[bool] = True
    is_active: ClassVar[bool] = True


class AttemptAuthentication(BaseAuthentication):
    """Sets request.auth to the Attempt with its id alone: heartbeats and events are frequent, and their services lock
    and read what they need. Accepts attempts that have ended: the services decide what those may still send."""

    def authenticate(self, request: Request) -> tuple[AttemptPrincipal, Attempt] | None:
        plain = bearer(request)
        if plain is None:
            return None
        try:
            attempt = Attempt.objects.only("pk").get(
                token_hash=token_hash(plain) if plain.startswith(ATTEMPT_PREFIX) else ""
            )
        except Attempt.DoesNotExist:
            message = f"Expected a valid attempt token ({ATTEMPT_PREFIX}...); stop the process tree."
            raise AuthenticationFailed(message) from None
        return AttemptPrincipal(attempt), attempt

    def authenticate_header(self, request: Request) -> str:  # noqa: ARG002 DRF's hook
        return "Bearer"


class OwnAttempt(BasePermission):
    message = "The token belongs to another attempt."

    def has_permission(self, request: Request, view: APIView) -> bool:
        return isinstance(request.auth, Attempt) and str(request.auth.pk) == str(view.kwargs["attempt_id"])


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


class Boot(Incoming):
    worker: UUID
    boot_id: UUID


class HostHeartbeat(Boot):
    free_slots: int = Field(ge=0, le=1000)
    room_bytes: int | None = Field(None, ge=0, le=MAX_BIGINT)
    """Free disk space for a job's inputs; null = not measured."""
    self_check: Literal["passed", "failed"] | None = None
    """Of a host in quarantine: whether what failed there works now; null = unknown."""


class HostView(APIView):
    authentication_classes = (WorkerAuthentication,)
    permission_classes = (IsAuthenticated,)
    parser_classes = (CleaningJSONParser,)


class HelloView(HostView):
    @internal_operation("host_hello", Hello, HelloShape)
    def post(self, request: Request) -> Response:
        worker = worker_hello(hello=Hello.model_validate(request.data))
        return Response(HelloShape.of(worker).model_dump())


class HeartbeatView(HostView):
    @internal_operation("host_heartbeat", HostHeartbeat, HostHeartbeatShape)
    def post(self, request: Request) -> Response:
        heartbeat = HostHeartbeat.model_validate(request.data)
        worker = worker_heartbeat(
            worker_id=heartbeat.worker,
            boot_id=heartbeat.boot_id,
            free_slots=heartbeat.free_slots,
            room_bytes=heartbeat.room_bytes,
            self_check=heartbeat.self_check,
        )
        return Response(HostHeartbeatShape.of(worker).model_dump())


class GoodbyeView(HostView):
    @internal_operation("host_goodbye", Boot)
    def post(self, request: Request) -> Response:
        boot = Boot.model_validate(request.data)
        worker_goodbye(worker_id=boot.worker, boot_id=boot.boot_id)
        return Response(status=204)


class ClaimsView(HostView):
    throttle_classes = (ClaimRate,)

    @internal_operation("host_claim", ClaimRequest, ClaimShape)
    def post(self, request: Request) -> Response:
        claim = attempt_claim(request=ClaimRequest.model_validate(request.data))
        if claim is None:
            return Response(status=204)
        secrets = secrets_open(attempt=claim.attempt)
        return Response(ClaimShape.of(claim, secrets).model_dump())
