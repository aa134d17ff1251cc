"""`POST templates/{ref}/preview`."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.catalog.selectors import template_version
from api.jobs.selectors import jobs_of
from api.jobs.services.previews import PreviewRequest, preview_create
from api.jobs.shapes import JobShape, job_shape


class TemplatePreviewView(APIView):
    @extend_schema(operation_id="templates_preview", request=PreviewRequest, responses={201: JobShape})
    def post(self, request: Request, ref: str) -> Response:
        """Queues a job that shows what one of the template would see: crops and captions, or tokens.

        Its samples, and `samples/report.json` among them, are read as those of any job.
        """
        project = project_of(request)
        template_version(project, ref, "name")
        asked = PreviewRequest.model_validate(request.data)
        job = preview_create(project=project, template=ref, request=asked, by=actor_of(request))
        return Response(job_shape(jobs_of(project).get(pk=job.pk)), status=201)
