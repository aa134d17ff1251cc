"""Workers as users see them. They serve every project, so they are shown to every member and drained by admins."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.jobs.models import Worker
from api.jobs.services.workers import worker_drain
from api.jobs.shapes import WorkerShape, worker_shape
from api.jobs.views import actor
from api.openapi import page_of


class WorkersView(APIView):
    @extend_schema(operation_id="workers_list", responses=page_of(WorkerShape))
    def get(self, request: Request) -> Response:  # noqa: ARG002
        """Worker hosts, last seen first."""
        found = Worker.objects.order_by("-last_seen")[:200]
        return Response({"results": [worker_shape(worker) for worker in found], "next": None})


class WorkerDrainView(APIView):
    write_scope = "admin"

    @extend_schema(operation_id="workers_drain", request=None, responses=WorkerShape)
    def post(self, request: Request, worker_id: str) -> Response:
        """Nothing new for this worker; what it runs goes back to the queue with a checkpoint."""
        return Response(worker_shape(worker_drain(worker_id=worker_id, by=actor(request))))
