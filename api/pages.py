"""`/api/docs`: Swagger's page, from files of this server alone; `/api/schema`: the description that it reads."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularSwaggerSplitView

from api.environment import environment
from api.errors import Problem, respond
from api.openapi import openapi_document

swagger: Any = SpectacularSwaggerSplitView.as_view(url="/api/schema", authentication_classes=(), permission_classes=())


@require_GET
def docs(request: HttpRequest) -> HttpResponseBase:
    """To everybody, or by setting to who is logged in to the panel."""
    if not _is_open(request):
        return redirect(f"{reverse('admin:login')}?next={request.path}")
    page: HttpResponseBase = swagger(request)
    return page


@require_GET
def schema(request: HttpRequest) -> HttpResponse:
    if not _is_open(request):
        return respond(Problem("not_authenticated", "Log in to the panel first.", status=401))
    return HttpResponse(_described(), content_type="application/json")


def _is_open(request: HttpRequest) -> bool:
    return environment().docs_public or request.user.is_authenticated


@cache
def _described() -> bytes:
    """Once per process: making it takes longer than anybody should be able to ask for."""
    raw: bytes = OpenApiJsonRenderer().render(openapi_document(), renderer_context={})
    return raw
