"""Templates: list, create, show, replace, delete."""

from django.http import Http404
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.catalog.answers import template_answer, template_version_answer
from api.catalog.models import Template
from api.catalog.selectors import template_version
from api.catalog.shapes import TemplateRequest, TemplateShape
from api.catalog.templates.services import template_create, template_delete, template_update
from api.catalog.versions.views import SEARCH
from api.openapi import page_of
from api.paging import PAGE, Cursor

METHOD = OpenApiParameter("method", str, description="Only those of this method.")


class TemplatesView(APIView):
    @extend_schema(operation_id="templates_list", responses=page_of(TemplateShape), parameters=[SEARCH, METHOD, *PAGE])
    def get(self, request: Request) -> Response:
        """Newest first."""
        found = Template.objects.filter(project=project_of(request))
        if text := request.query_params.get("search"):
            found = found.filter(name__icontains=text)
        if method := request.query_params.get("method"):
            found = found.filter(method=method)
        pages = Cursor()
        rows = pages.paginate_queryset(found, request, view=self) or []
        return pages.get_paginated_response([template_answer(row) for row in rows])

    @extend_schema(operation_id="templates_create", request=TemplateRequest, responses={201: TemplateShape})
    def post(self, request: Request) -> Response:
        """Saves parameters under a name. 409 where it is taken."""
        wanted = TemplateRequest.model_validate(request.data)
        template = template_create(project=project_of(request), wanted=wanted, by=actor_of(request))
        return Response(template_answer(template), status=201)


class TemplateView(APIView):
    @extend_schema(operation_id="templates_show", responses=TemplateShape)
    def get(self, request: Request, name: str) -> Response:
        """All that was set: `name` is what stands there now, `name@3` what version 3 said."""
        return Response(template_version_answer(template_version(project_of(request), name, "name")))

    @extend_schema(operation_id="templates_replace", request=TemplateRequest, responses=TemplateShape)
    def put(self, request: Request, name: str) -> Response:
        """Replaces all of it."""
        template = template_or_404(request, name)
        body = {"name": name, **request.data} if isinstance(request.data, dict) else request.data
        wanted = TemplateRequest.model_validate(body)
        return Response(template_answer(template_update(template=template, wanted=wanted, by=actor_of(request))))

    @extend_schema(operation_id="templates_delete", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Jobs that were made from it keep their parameters."""
        template_delete(template=template_or_404(request, name), by=actor_of(request))
        return Response(status=204)


def template_or_404(request: Request, name: str) -> Template:
    found = Template.objects.select_related("project").filter(project=project_of(request), name=name).first()
    if found is None:
        raise Http404(f"There is no template {name!r} in project {project_of(request).name!r}.")
    return found
