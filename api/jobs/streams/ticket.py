"""Tickets for live streams: a browser's EventSource cannot send the Authorization header, so its address carries one.

A ticket opens one job's stream for a short time, again and again, so that a broken connection is made anew by itself.
It is worth what its maker's token is worth at that moment: revoked, expired or demoted tokens make void tickets.
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
        return Response({"ticket": ticket_make(token_of(request), job), "expires_at": expires_at.isoformat()})


def ticket_make(token: Token, job: Job) -> str:
    return signing.dumps({"token": token.pk.hex, "job": job.pk.hex}, salt=SALT)


def ticket_token(ticket: str) -> tuple[Token, str]:
    """The token that the ticket stands for, with its scopes of now, and the job's id. Raises Problem(401)."""
    try:
        told = signing.loads(ticket, salt=SALT, max_age=environment().stream_ticket_seconds)
    except signing.SignatureExpired:
        raise Problem("stream_ticket", "The stream ticket is too old.", status=401, hint=HINT) from None
    except signing.BadSignature:
        raise Problem("stream_ticket", "This is no stream ticket of ours.", status=401, hint=HINT) from None
    live = Q(revoked_at=None) & (Q(expires_at=None) | Q(expires_at__gt=timezone.now())) & Q(user__is_active=True)
    token = Token.objects.select_related("user", "project").filter(live, pk=told["token"]).first()
    if token is None:
        raise Problem("stream_ticket", "The token behind the stream ticket is no longer good.", status=401, hint=HINT)
    token.live_scopes = scopes_now(token)
    return token, told["job"]
