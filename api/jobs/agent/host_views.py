"""What a worker host calls, with a worker token. See docs/protocol.md."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field
from rest_framework.permissions import IsAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import WorkerAuthentication
from api.accounts.limits import ClaimRate
from api.environment import environment
from api.jobs.agent.incoming import Incoming
from api.jobs.services.claim import Claimed, ClaimRequest, attempt_claim
from api.jobs.services.inputs import attempt_inputs, attempt_spec
from api.jobs.services.secrets import secrets_give
from api.jobs.services.workers import Hello, worker_goodbye, worker_heartbeat, worker_hello
from api.openapi import internal_operation
from api.parsing import CleaningJSONParser
from foundation.protocol import OLDEST_WORKER, PROTOCOL
from trainers.contract.spec import MAX_BIGINT

TIMES = (
    "heartbeat_seconds",
    "lease_seconds",
    "self_fence_seconds",
    "kill_seconds",
    "poll_seconds",
    "request_timeout_seconds",
    "no_progress_seconds",
    "stop_grace_seconds",
)


class Boot(Incoming):
    worker: UUID
    boot_id: UUID


class HostHeartbeat(Boot):
    free_slots: int = Field(ge=0, le=1000)
    room_bytes: int | None = Field(None, ge=0, le=MAX_BIGINT)
    """Room for a job's inputs on the disk; null = not looked at."""
    self_check: Literal["passed", "failed"] | None = None
    """Of a host in quarantine: whether what failed there works now; null = it cannot tell."""


class HostView(APIView):
    authentication_classes = (WorkerAuthentication,)
    permission_classes = (IsAuthenticated,)
    parser_classes = (CleaningJSONParser,)


class HelloView(HostView):
    @internal_operation("host_hello", Hello)
    def post(self, request: Request) -> Response:
        worker = worker_hello(hello=Hello.model_validate(request.data))
        times = {name: getattr(environment(), name) for name in TIMES}
        spoken = {"protocol": PROTOCOL, "oldest_protocol": OLDEST_WORKER}
        return Response({"worker": str(worker.pk), "draining": worker.draining, **spoken, **times})


class HeartbeatView(HostView):
    @internal_operation("host_heartbeat", HostHeartbeat)
    def post(self, request: Request) -> Response:
        given = HostHeartbeat.model_validate(request.data)
        worker = worker_heartbeat(
            worker_id=given.worker,
            boot_id=given.boot_id,
            free_slots=given.free_slots,
            room_bytes=given.room_bytes,
            self_check=given.self_check,
        )
        return Response({"draining": worker.draining, "quarantine": worker.quarantine and worker.quarantine["code"]})


class GoodbyeView(HostView):
    @internal_operation("host_goodbye", Boot)
    def post(self, request: Request) -> Response:
        given = Boot.model_validate(request.data)
        worker_goodbye(worker_id=given.worker, boot_id=given.boot_id)
        return Response(status=204)


class ClaimsView(HostView):
    throttle_classes = (ClaimRate,)

    @internal_operation("host_claim", ClaimRequest)
    def post(self, request: Request) -> Response:
        claimed = attempt_claim(request=ClaimRequest.model_validate(request.data))
        return Response(status=204) if claimed is None else Response(_claim(claimed))


def _claim(claimed: Claimed) -> dict[str, Any]:
    attempt, job = claimed.attempt, claimed.attempt.job
    given = secrets_give(attempt=attempt)
    return {
        "attempt": {"id": str(attempt.pk), "n": attempt.n, "fence": attempt.fence, "token": claimed.token},
        "job": {"id": str(job.pk), "name": job.name, "project": str(job.project_id), "method": job.method},
        "spec": attempt_spec(attempt),
        "accelerators": attempt.accelerators,
        "inputs": attempt_inputs(attempt),
        "secrets": given.values,
        "missing_secrets": given.missing,
        "stop_grace_seconds": environment().stop_grace_seconds,
        "no_progress_seconds": environment().no_progress_seconds,
    }
