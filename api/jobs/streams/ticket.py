"""Tickets for live streams: a browser's EventSource cannot send the Authorization header, so its URL has a ticket.

A ticket opens one job's stream for a short time, any number of times, so that a browser can reconnect by itself.
It grants what the token of its creator grants at that moment: nothing after that token was revoked or expired.
"""

from datetime import timedelta
from typing import Any

from django.core import signing
from django.db.models import Q
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from pydantic import BaseModel
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import project_of, token_of
from api.accounts.models import Token
from api.accounts.tokens import scopes_now
from api.environment import environment
from api.errors import Problem
from api.jobs.models import Job
from api.jobs.selectors import job_find

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
