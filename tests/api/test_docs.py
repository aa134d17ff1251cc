"""Swagger's page: complete without another server, and closed where the setting says so."""

import re
from typing import Any

import httpx
import pytest
from django.contrib.auth import get_user_model
from django.test import Client

from api.asgi import application
from tests.api.world import Environ

pytestmark = pytest.mark.django_db(transaction=True)


async def get(path: str) -> httpx.Response:
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.get(path)


@pytest.mark.asyncio
async def test_the_page_takes_everything_from_here_and_runs_no_inline_script() -> None:
    page = await get("/api/docs")
    assert page.status_code == 200
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(sources) >= 4
    for source in sources:
        assert source.startswith("/"), source
        assert (await get(source.replace("&amp;", "&"))).status_code == 200, source
    assert re.findall(r"<script(?![^>]*src=)", page.text) == []
    assert "script-src 'self';" in page.headers["content-security-policy"] + ";"


@pytest.mark.asyncio
async def test_the_description_is_json_of_every_address() -> None:
    body: Any = (await get("/api/schema")).json()
    assert body["openapi"].startswith("3.1")
    assert "/api/v1/tokens" in body["paths"]
    assert not any(path.startswith("/internal") for path in body["paths"])


def test_a_closed_page_is_for_those_who_are_logged_in(environ: Environ, client: Client) -> None:
    environ(docs_public=False)
    assert client.get("/api/docs").headers["location"] == "/admin/login/?next=/api/docs"
    assert (client.get("/api/schema").status_code, client.get("/api/schema").json()["code"]) == (
        401,
        "not_authenticated",
    )
    client.force_login(get_user_model().objects.create_user("anna"))
    assert client.get("/api/docs").status_code == 200
    assert client.get("/api/schema").status_code == 200
    assert client.post("/api/docs").status_code == 405
