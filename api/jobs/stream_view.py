"""`GET jobs/{id}/stream`: server-sent events. A plain async view: DRF answers 406 to an EventSource."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

from asgiref.sync import sync_to_async
from django.db import connection
from django.http import Http404, HttpRequest, HttpResponse, StreamingHttpResponse
from rest_framework.exceptions import APIException, NotAuthenticated, PermissionDenied
from rest_framework.request import Request

from api.auth import HasScope, TokenAuthentication, project_of
from api.environment import environment
from api.errors import Problem, problem_of, respond
from api.jobs.models import ENDED, Job
from api.jobs.selectors import job_find
from api.jobs.stream import Message, poller

HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


async def job_stream(request: HttpRequest, ref: str) -> HttpResponse | StreamingHttpResponse:
    """Events after `Last-Event-ID` and then what happens; ends after the terminal event, 204 when that was before."""
    if request.method != "GET":
        return respond(Problem("method_not_allowed", f'Method "{request.method}" not allowed.', status=405))
    try:
        after = _last_seen(request)
        job_id, over = await sync_to_async(_authorized)(request, ref, after)
    except (Problem, Http404, APIException) as refusal:
        problem = problem_of(refusal)
        assert problem is not None, f"{refusal!r} has no answer"
        return respond(problem)
    if over:
        return HttpResponse(status=204)
    return StreamingHttpResponse(_follow(job_id, after), content_type="text/event-stream", headers=HEADERS)


async def _follow(job_id: UUID, after: int) -> AsyncIterator[bytes]:
    yield b": following\n\n"
    async with poller().follow(job_id, after) as follower:
        while True:
            try:
                async with asyncio.timeout(environment().stream_keep_alive_seconds):
                    message = await follower.messages.get()
            except TimeoutError:
                yield b": keep-alive\n\n"
                continue
            if message is None:
                return
            yield _frame(message)


def _frame(message: Message) -> bytes:
    """Steps carry no id, so that a browser's Last-Event-ID stays that of the last event."""
    lines = [f"event: {message['kind']}", f"data: {json.dumps(message, separators=(',', ':'))}"]
    if message["time"] is not None:
        lines.insert(0, f"id: {message['seq']}")
    return ("\n".join(lines) + "\n\n").encode()


def _last_seen(request: HttpRequest) -> int:
    given = request.headers.get("Last-Event-ID") or request.GET.get("after") or "0"
    if not given.isdecimal():
        raise Problem("invalid", f"Last-Event-ID must be a whole number, got {given!r}.")
    return int(given)


def _authorized(request: HttpRequest, ref: str, after: int) -> tuple[UUID, bool]:
    """The job's id, and whether the caller has its terminal event already. The connection is given back."""
    try:
        drf = Request(request, authenticators=[TokenAuthentication()])
        if not drf.auth:
            raise NotAuthenticated
        if not HasScope().has_permission(drf, None):
            raise PermissionDenied(HasScope.message)
        jobs: Any = Job.objects.filter(project=project_of(drf)).only("state", "event_seq")
        job = job_find(jobs, ref)
        return job.pk, job.state in ENDED and after >= job.event_seq
    finally:
        connection.close()
