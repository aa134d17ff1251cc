"""Templates: validate, clone, version history, restore, export and import."""

from typing import Any

from django.http import HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.audit.names import ref_read
from api.catalog.answers import template_answer, template_version_answer
from api.catalog.models import TemplateVersion
from api.catalog.selectors import template_version
from api.catalog.shapes import (
    NameRequest,
    TemplateContent,
    TemplateImportShape,
    TemplateRequest,
    TemplateShape,
    TemplateVersionShape,
    VerdictRequest,
    VerdictShape,
    VersionNumber,
)
from api.catalog.templates.check import template_verdict
from api.catalog.templates.services import template_clone, template_import, template_restore
from api.catalog.templates.views import template_or_404
from api.catalog.templates.yaml_file import MAX_BYTES, template_read, template_write
from api.negotiation import OneKind
from api.openapi import page_of
from api.paging import PAGE, Cursor
from api.parsing import StrictJSONParser, values_check

YAML = "application/yaml"
RENAME = OpenApiParameter("name", str, description="Save under this name instead of the file's.")
REPLACE = OpenApiParameter("replace", bool, description="true: a template of that name gets a new version.")


class YamlParser(BaseParser):
    media_type = YAML

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:  # noqa: ARG002
        """One byte more than allowed is read, so that too much is noticed."""
        return stream.read(MAX_BYTES + 1)


class NewestFirst(Cursor):
    ordering = ("-version",)


class TemplateVersionsView(APIView):
    @extend_schema(operation_id="templates_versions", responses=page_of(TemplateVersionShape), parameters=[*PAGE])
    def get(self, request: Request, name: str) -> Response:
        """What the template said, the newest version first."""
        template = template_or_404(request, name)
        pages = NewestFirst()
        found = TemplateVersion.objects.filter(template=template).select_related("template")
        rows = pages.paginate_queryset(found, request, view=self) or []
        return pages.get_paginated_response([{**template_version_answer(row), "actor": row.actor} for row in rows])


class TemplateRestoreView(APIView):
    @extend_schema(operation_id="templates_restore", request=VersionNumber, responses=TemplateShape)
    def post(self, request: Request, name: str) -> Response:
        """Makes what an older version said the newest version."""
        template = template_or_404(request, name)
        number = VersionNumber.model_validate(request.data).version
        version = template_version(project_of(request), f"{template.name}@{number}", "version")
        return Response(template_answer(template_restore(template=template, version=version, by=actor_of(request))))


class TemplateCloneView(APIView):
    @extend_schema(operation_id="templates_clone", request=NameRequest, responses={201: TemplateShape})
    def post(self, request: Request, ref: str) -> Response:
        """A new template with what this one says, or `name@3` said. 409 where the name is taken."""
        wanted = NameRequest.model_validate(request.data).name
        made = template_clone(version=_version(request, ref), name=wanted, by=actor_of(request))
        return Response(template_answer(made), status=201)


class TemplateVerdictView(APIView):
    @extend_schema(operation_id="templates_check", request=VerdictRequest, responses=VerdictShape)
    def post(self, request: Request) -> Response:
        """Says whether the template could be saved; nothing is."""
        wanted = VerdictRequest.model_validate(request.data)
        return Response(template_verdict(project_of(request), wanted))


class TemplateVerdictOfView(APIView):
    @extend_schema(operation_id="templates_validate", request=None, responses=VerdictShape)
    def post(self, request: Request, ref: str) -> Response:
        """Says whether a job of the template would still find all that it names."""
        wanted = TemplateContent.model_validate(_version(request, ref).content)
        return Response(template_verdict(project_of(request), wanted))


class TemplateExportView(APIView):
    content_negotiation_class = OneKind

    @extend_schema(operation_id="templates_export", responses={(200, YAML): OpenApiTypes.OBJECT})
    def get(self, request: Request, ref: str) -> HttpResponse:
        """The template as a YAML file, to keep in git or to import elsewhere."""
        version = _version(request, ref)
        named = f'attachment; filename="{version.template.name}.yaml"'
        return HttpResponse(
            template_write(version), content_type=f"{YAML}; charset=utf-8", headers={"Content-Disposition": named}
        )


class TemplateImportView(APIView):
    parser_classes = (YamlParser, StrictJSONParser)

    @extend_schema(
        operation_id="templates_import",
        parameters=[RENAME, REPLACE],
        request={YAML: OpenApiTypes.STR, "application/json": TemplateRequest},
        responses={
            200: OpenApiResponse(TemplateImportShape, description="A new version of the template of that name"),
            201: OpenApiResponse(TemplateImportShape, description="A new template"),
        },
    )
    def post(self, request: Request) -> Response:
        """Saves a template from a YAML file of at most 64 KiB, as `export` gives it; `notes` say what was left out."""
        body = values_check(template_read(request.data)) if isinstance(request.data, bytes) else request.data
        if (name := request.query_params.get("name")) and isinstance(body, dict):
            body = {**body, "name": name}
        wanted = TemplateRequest.model_validate(body)
        replace = _flag(request.query_params.get("replace", "false"))
        done = template_import(project=project_of(request), wanted=wanted, replace=replace, by=actor_of(request))
        answer = {**template_answer(done.template), "notes": done.notes}
        return Response(answer, status=201 if done.is_new else 200)


def _version(request: Request, ref: str) -> TemplateVersion:
    ref_read(ref, "name")
    return template_version(project_of(request), ref, "name")


def _flag(given: str) -> bool:
    if given not in ("true", "false"):
        raise ValueError(f"replace must be true or false, got {given!r:.100}")
    return given == "true"
