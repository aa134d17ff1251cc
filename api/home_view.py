"""`/`: what this server is, and where to go."""

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

PAGE = """<!doctype html>
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
    return HttpResponse(PAGE)
