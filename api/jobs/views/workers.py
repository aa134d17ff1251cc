"""Endpoints of workers for people. Workers serve every project: every member sees them, admins drain them."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of
from api.jobs.models import Worker
from api.jobs.schemas import WorkerShape
from api.jobs.services.budgets import worker_release
from api.jobs.services.workers import worker_drain, worker_drain_undo
from api.openapi import page_of
from api.paging import PAGE, Cursor


class LastSeenFirst(Cursor):
    ordering = ("-last_seen", "-id")


class WorkersView(APIView):
    @extend_schema(operation_id="workers_list", parameters=[*PAGE], responses=page_of(WorkerShape))
    def get(self, request: Request) -> Response:
        """Worker hosts, last seen first."""
        return LastSeenFirst().respond(Worker.objects.all(), request, lambda rows: map(WorkerShape.of, rows))


class WorkerDrainView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="workers_drain", request=None, responses=WorkerShape)
    def post(self, request: Request, worker_id: str) -> Response:
        """Nothing new for this worker; what it runs goes back to the queue with a checkpoint."""
        return _respond(worker_drain(worker_id=worker_id, by=actor_of(request)))

    @extend_schema(operation_id="workers_drain_undo", responses={200: WorkerShape})
    def delete(self, request: Request, worker_id: str) -> Response:
        """The worker takes jobs again; what went back to the queue stays there until somebody claims it."""
        return _respond(worker_drain_undo(worker_id=worker_id, by=actor_of(request)))


class WorkerReleaseView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="workers_release", request=None, responses=WorkerShape)
    def post(self, request: Request, worker_id: str) -> Response:
        """Ends a worker's quarantine: it is given jobs again, and the failures before no longer count."""
        return _respond(worker_release(worker_id=worker_id, by=actor_of(request)))


def _respond(worker: Worker) -> Response:
    return Response(WorkerShape.of(worker).model_dump())
