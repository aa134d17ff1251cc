"""`/`, `/api/docs` (Swagger UI, with no files of other servers) and `/api/schema` (its OpenAPI document)."""

from functools import cache
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_safe
from drf_spectacular.renderers import OpenApiJsonRenderer
from drf_spectacular.views import SpectacularSwaggerSplitView

from api.environment import environment
from api.errors import Problem, respond
from api.openapi import openapi_document

swagger: Any = SpectacularSwaggerSplitView.as_view(url="/api/schema", authentication_classes=(), permission_classes=())

HOME = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Anneal</title></head>
<body>
<h1>Anneal</h1>
<p>This is the API of Anneal, a platform that trains diffusion models.</p>
<ul>
<li><a href="/admin/">The panel</a>: jobs, workers, people, for staff.</li>
<li><a href="/api/docs">The API</a>, with every call; its description is at <a href="/api/schema">/api/schema</a>.</li>
<li>The command line: <code>pip install anneal</code>, then <code>anneal login ADDRESS</code> with the address of this
page, and <code>anneal --help</code>.</li>
<li><a href="/readyz">/readyz</a> says whether everything that this server stands on answers.</li>
</ul>
</body>
</html>
"""


@require_safe
def home(request: HttpRequest) -> HttpResponse:  # noqa: ARG001 Django's signature
    return HttpResponse(HOME)


@require_GET
def docs(request: HttpRequest) -> HttpResponseBase:
    """For everybody, or for users of the panel only (ANNEAL_DOCS_PUBLIC)."""
    if not _is_open(request):
        return redirect(f"{reverse('admin:login')}?next={request.path}")
    page: HttpResponseBase = swagger(request)
    return page


@require_GET
def schema(request: HttpRequest) -> HttpResponse:
    if not _is_open(request):
        return respond(Problem("not_authenticated", "Log in to the panel first.", status=401))
    return HttpResponse(_document(), content_type="application/json")


def _is_open(request: HttpRequest) -> bool:
    return environment().docs_public or request.user.is_authenticated


@cache
def _document() -> bytes:
    """Generated once per process, since it is slow."""
    raw: bytes = OpenApiJsonRenderer().render(openapi_document(), renderer_context={})
    return raw
