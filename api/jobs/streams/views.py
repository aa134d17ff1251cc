"""`GET jobs/{id}/stream`: server-sent events and its ticket. A plain view: DRF answers 406 to an EventSource."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.core import signing
from django.db import connection
from django.db.models import Q
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from prometheus_client import Gauge
from pydantic import BaseModel
from rest_framework.exceptions import APIException, NotAuthenticated, PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import HasScope, TokenAuthentication, project_of, token_of
from api.accounts.models import Token
from api.accounts.tokens import scopes_now
from api.environment import environment
from api.errors import Problem, problem_of, respond
from api.jobs.models import Job
from api.jobs.selectors import job_find
from api.jobs.states import ENDED
from api.jobs.streams.stream import Follower, Message, poller

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
MAX_DIGITS = 18
STREAMS = Gauge("anneal_live_streams", "Event streams that are open.", multiprocess_mode="livesum")


def job_stream(request: HttpRequest, ref: str) -> HttpResponse | StreamingHttpResponse:
    """Events after `Last-Event-ID`, then new ones; ends after the terminal event. 204 if the caller has it already."""
    if request.method != "GET":
        return respond(Problem("method_not_allowed", f'Method "{request.method}" not allowed.', status=405))
    try:
        after = _last_event_id(request)
        job_id, has_ended = _authorized(request, ref, after)
    except (Problem, Http404, APIException) as refusal:
        problem = problem_of(refusal)
        assert problem is not None, f"no response for {refusal!r}"
        return respond(problem)
    if has_ended:
        return HttpResponse(status=204)
    return StreamingHttpResponse(_follow(job_id, after), content_type="text/event-stream", headers=HEADERS)


async def _follow(job_id: UUID, after: int) -> AsyncIterator[bytes]:
    yield b": following\n\n"
    with STREAMS.track_inprogress():
        async with poller().follow(job_id, after) as follower:
            while (message := await _next(follower)) is not None:
                yield message


async def _next(follower: Follower) -> bytes | None:
    """The next message, or a comment after a time without one; None at the end."""
    try:
        async with asyncio.timeout(environment().stream_keep_alive_seconds):
            message = await follower.messages.get()
    except TimeoutError:
        return b": keep-alive\n\n"
    return None if message is None else _frame(message)


def _frame(message: Message) -> bytes:
    """Steps carry no id, so that a browser's Last-Event-ID stays that of the last event."""
    lines = [f"event: {message['kind']}", f"data: {json.dumps(message, separators=(',', ':'))}"]
    if message["time"] is not None:
        lines.insert(0, f"id: {message['seq']}")
    return ("\n".join(lines) + "\n\n").encode()


def _last_event_id(request: HttpRequest) -> int:
    value = request.headers.get("Last-Event-ID") or request.GET.get("after") or "0"
    if not (value.isdecimal() and len(value) <= MAX_DIGITS):
        raise Problem("invalid", f"Last-Event-ID must be a whole number, got {value[:50]!r}.")
    return int(value)


def _authorized(request: HttpRequest, ref: str, after: int) -> tuple[UUID, bool]:
    """The job's id, and whether the caller has its terminal event already. Closes the connection, since a stream holds
    its thread."""
    try:
        ticket = request.GET.get("ticket")
        token, ticket_job = ticket_token(ticket) if ticket else (_bearer_token(request), "")
        if "read" not in token.live_scopes:
            raise PermissionDenied(HasScope.message)
        jobs: Any = Job.objects.filter(project=token.project_id).only("state", "event_seq")
        job = job_find(jobs.filter(pk=ticket_job) if ticket_job else jobs, ref)
        return job.pk, job.state in ENDED and after >= job.event_seq
    finally:
        connection.close()


def _bearer_token(request: HttpRequest) -> Token:
    result = TokenAuthentication().authenticate(Request(request))
    if result is None:
        raise NotAuthenticated
    return result[1]


SALT = "anneal.stream"
HINT = "POST jobs/{id}/stream-ticket gives a new one."


class StreamTicketShape(BaseModel):
    ticket: str
    """For `GET jobs/{id}/stream?ticket=...`."""
    expires_at: str
    """Until then the stream may be opened with it; one that is open stays open."""


class JobStreamTicketView(APIView):
    write_scope = "read"

    @extend_schema(operation_id="jobs_stream_ticket", request=None, responses=StreamTicketShape)
    def post(self, request: Request, ref: str) -> Response:
        """A ticket that lets a browser follow this job."""
        jobs: Any = Job.objects.filter(project=project_of(request)).only("pk")
        job, seconds = job_find(jobs, ref), environment().stream_ticket_seconds
        expires_at = timezone.now() + timedelta(seconds=seconds)
        ticket = ticket_create(token_of(request), job)
        return Response(StreamTicketShape(ticket=ticket, expires_at=expires_at.isoformat()).model_dump())


def ticket_create(token: Token, job: Job) -> str:
    return signing.dumps({"token": token.pk.hex, "job": job.pk.hex}, salt=SALT)


def ticket_token(ticket: str) -> tuple[Token, str]:
    """The token behind the ticket, with its current scopes, and the job's id. Raises Problem(401)."""
    try:
        payload = signing.loads(ticket, salt=SALT, max_age=environment().stream_ticket_seconds)
    except signing.SignatureExpired:
        raise Problem("stream_ticket", "The stream ticket is too old.", status=401, hint=HINT) from None
    except signing.BadSignature:
        raise Problem("stream_ticket", "This is no stream ticket of ours.", status=401, hint=HINT) from None
    live = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now())) & Q(user__is_active=True)
    token = Token.objects.select_related("user", "project").filter(live, pk=payload["token"]).first()
    if token is None:
        raise Problem("stream_ticket", "The token behind the stream ticket is no longer good.", status=401, hint=HINT)
    token.live_scopes = scopes_now(token)
    return token, payload["job"]
