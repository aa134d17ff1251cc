"""The files of an upload that come in parts."""

import uuid

from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import project_of
from api.catalog.versions.uploads import upload_join
from api.catalog.versions.views import record_or_404, upload_or_404
from api.upload_links import Parts


class UploadCompleteView(APIView):
    kind = ""

    def post(self, request: Request, name: str, upload_id: uuid.UUID) -> Response:
        """Joins the parts of one file once all were sent; the same again changes nothing."""
        record = record_or_404(project_of(request), self.kind, name)
        upload = upload_or_404(record, self.kind, upload_id)
        return Response(upload_join(upload=upload, parts=Parts.model_validate(request.data)))
