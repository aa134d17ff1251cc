"""Templates: list, create, show, replace, delete; validate, clone, history, restore, export and import."""

from typing import Any

from django.http import Http404, HttpResponse
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.parsers import BaseParser
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from api.accounts.authentication import actor_of, project_of
from api.audit.names import ref_read
from api.catalog.models import Template, TemplateVersion
from api.catalog.selectors import template_version
from api.catalog.templates.schemas import (
    MAX_BYTES,
    TemplateContent,
    TemplateImportShape,
    TemplateRequest,
    TemplateShape,
    TemplateVersionShape,
    VerdictRequest,
    VerdictShape,
    VersionNumber,
    template_read,
    template_write,
)
from api.catalog.templates.services import (
    template_clone,
    template_create,
    template_delete,
    template_import,
    template_restore,
    template_update,
    template_verdict,
)
from api.catalog.versions.schemas import NameRequest
from api.catalog.versions.views import SEARCH
from api.openapi import page_of
from api.paging import PAGE, Cursor
from api.parsing import FixedNegotiation, StrictJSONParser, values_check

YAML = "application/yaml"
RENAME = OpenApiParameter("name", str, description="Save under this name instead of the file's.")
REPLACE = OpenApiParameter("replace", bool, description="true: a template of that name gets a new version.")
METHOD = OpenApiParameter("method", str, description="Only those of this method.")


class TemplatesView(APIView):
    @extend_schema(operation_id="templates_list", responses=page_of(TemplateShape), parameters=[SEARCH, METHOD, *PAGE])
    def get(self, request: Request) -> Response:
        """Newest first."""
        templates = Template.objects.filter(project=project_of(request))
        if text := request.query_params.get("search"):
            templates = templates.filter(name__icontains=text)
        if method := request.query_params.get("method"):
            templates = templates.filter(method=method)
        return Cursor().respond(templates, request, lambda rows: map(TemplateShape.of, rows))

    @extend_schema(operation_id="templates_create", request=TemplateRequest, responses={201: TemplateShape})
    def post(self, request: Request) -> Response:
        """Saves parameters under a name. 409 where it is taken."""
        body = TemplateRequest.model_validate(request.data)
        template = template_create(project=project_of(request), body=body, by=actor_of(request))
        return Response(TemplateShape.of(template).model_dump(), status=201)


class TemplateView(APIView):
    @extend_schema(operation_id="templates_show", responses=TemplateShape)
    def get(self, request: Request, name: str) -> Response:
        """All that was set: `name` is what stands there now, `name@3` what version 3 said."""
        version = template_version(project_of(request), name, "name")
        return Response(TemplateShape.of_version(version).model_dump())

    @extend_schema(operation_id="templates_replace", request=TemplateRequest, responses=TemplateShape)
    def put(self, request: Request, name: str) -> Response:
        """Replaces all of it."""
        template = template_or_404(request, name)
        data = {"name": name, **request.data} if isinstance(request.data, dict) else request.data
        body = TemplateRequest.model_validate(data)
        updated = template_update(template=template, body=body, by=actor_of(request))
        return Response(TemplateShape.of(updated).model_dump())

    @extend_schema(operation_id="templates_delete", responses={204: None})
    def delete(self, request: Request, name: str) -> Response:
        """Jobs that were made from it keep their parameters."""
        template_delete(template=template_or_404(request, name), by=actor_of(request))
        return Response(status=204)


class YamlParser(BaseParser):
    media_type = YAML

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:  # noqa: ARG002
        """Reads one byte more than allowed, so that `template_read` rejects a file that is too large."""
        return stream.read(MAX_BYTES + 1)


class NewestFirst(Cursor):
    ordering = ("-version",)


class TemplateVersionsView(APIView):
    @extend_schema(operation_id="templates_versions", responses=page_of(TemplateVersionShape), parameters=[*PAGE])
    def get(self, request: Request, name: str) -> Response:
        """What the template said, the newest version first."""
        template = template_or_404(request, name)
        versions = TemplateVersion.objects.filter(template=template).select_related("template")
        return NewestFirst().respond(
            versions, request, lambda rows: [TemplateVersionShape.of_version(row, actor=row.actor) for row in rows]
        )


class TemplateRestoreView(APIView):
    @extend_schema(operation_id="templates_restore", request=VersionNumber, responses=TemplateShape)
    def post(self, request: Request, name: str) -> Response:
        """Makes what an older version said the newest version."""
        template = template_or_404(request, name)
        number = VersionNumber.model_validate(request.data).version
        version = template_version(project_of(request), f"{template.name}@{number}", "version")
        restored = template_restore(template=template, version=version, by=actor_of(request))
        return Response(TemplateShape.of(restored).model_dump())


class TemplateCloneView(APIView):
    @extend_schema(operation_id="templates_clone", request=NameRequest, responses={201: TemplateShape})
    def post(self, request: Request, ref: str) -> Response:
        """A new template with what this one says, or `name@3` said. 409 where the name is taken."""
        name = NameRequest.model_validate(request.data).name
        clone = template_clone(version=_version(request, ref), name=name, by=actor_of(request))
        return Response(TemplateShape.of(clone).model_dump(), status=201)


class TemplateVerdictView(APIView):
    @extend_schema(operation_id="templates_check", request=VerdictRequest, responses=VerdictShape)
    def post(self, request: Request) -> Response:
        """Says whether the template could be saved; nothing is."""
        body = VerdictRequest.model_validate(request.data)
        return Response(template_verdict(project_of(request), body).model_dump())


class TemplateVerdictOfView(APIView):
    @extend_schema(operation_id="templates_validate", request=None, responses=VerdictShape)
    def post(self, request: Request, ref: str) -> Response:
        """Says whether a job of the template would still find all that it names."""
        content = TemplateContent.model_validate(_version(request, ref).content)
        return Response(template_verdict(project_of(request), content).model_dump())


class TemplateExportView(APIView):
    content_negotiation_class = FixedNegotiation

    @extend_schema(operation_id="templates_export", responses={(200, YAML): OpenApiTypes.OBJECT})
    def get(self, request: Request, ref: str) -> HttpResponse:
        """The template as a YAML file, to keep in git or to import elsewhere."""
        version = _version(request, ref)
        headers = {"Content-Disposition": f'attachment; filename="{version.template.name}.yaml"'}
        return HttpResponse(template_write(version), content_type=f"{YAML}; charset=utf-8", headers=headers)


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
        data = values_check(template_read(request.data)) if isinstance(request.data, bytes) else request.data
        if (name := request.query_params.get("name")) and isinstance(data, dict):
            data = {**data, "name": name}
        body = TemplateRequest.model_validate(data)
        replace = _flag(request.query_params.get("replace", "false"))
        result = template_import(project=project_of(request), body=body, replace=replace, by=actor_of(request))
        schema = TemplateImportShape.of(result.template, notes=result.notes)
        return Response(schema.model_dump(), status=201 if result.is_new else 200)


def template_or_404(request: Request, name: str) -> Template:
    template = Template.objects.select_related("project").filter(project=project_of(request), name=name).first()
    if template is None:
        raise Http404(f"There is no template {name!r} in project {project_of(request).name!r}.")
    return template


def _version(request: Request, ref: str) -> TemplateVersion:
    ref_read(ref, "name")
    return template_version(project_of(request), ref, "name")


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"replace must be true or false, got {text!r:.100}")
    return text == "true"
