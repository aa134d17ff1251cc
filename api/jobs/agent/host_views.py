"""Endpoints of worker hosts, which hold a worker token. See docs/protocol.md."""

from typing import Literal
from uuid import UUID

from pydantic import Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import WorkerAuthentication
from api.accounts.limits import ClaimRate
from api.jobs.agent.schemas import ClaimShape, HelloShape, HostHeartbeatShape
from api.jobs.schemas import Incoming
from api.jobs.services.claim import ClaimRequest, attempt_claim
from api.jobs.services.secrets import secrets_open
from api.jobs.services.workers import Hello, worker_goodbye, worker_heartbeat, worker_hello
from api.openapi import internal_operation
from api.parsing import CleaningJSONParser
from trainers.contract.spec import MAX_BIGINT


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
