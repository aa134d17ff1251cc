"""What browsers are told, and what Django says of a served configuration."""

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.asgi import application
from api.environment import environment
from api.server.http_protocol import proxied
from api.server.security_headers import headers_for
from tests.api.actors import person
from tests.api.test_settings import GOOD
from tests.api.world import Environ
from tests.patience import PATIENCE_SECONDS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.any_database]
NEEDED = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
}
PATHS = (
    "/healthz",
    "/api/v1/jobs",
    "/nothing",
    "/admin/login/",
    "/storage/x?forged=1",
    "/static/unfold/css/styles.css",
    "/api/v1/me?x=%00",
)


async def get(path: str, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(application, client=("192.0.2.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        return await client.get(path, headers=headers)


@pytest.mark.asyncio
@pytest.mark.parametrize("path", PATHS)
async def test_every_answer_carries_them(path: str) -> None:
    answer = await get(path)
    assert {name: answer.headers.get(name) for name in NEEDED} == NEEDED
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy or "default-src 'self'" in policy
    assert answer.headers.get("cross-origin-resource-policy") in ("same-origin", "same-site")
    assert "access-control-allow-origin" not in answer.headers
    assert "strict-transport-security" not in answer.headers
    names = [name for name, _ in answer.headers.multi_items()]
    assert len({*names} & {*NEEDED}) == len([name for name in names if name in NEEDED]), "none comes twice"


@pytest.mark.parametrize(
    ("path", "allowed", "forbidden"),
    [
        ("/api/v1/jobs", "default-src 'none'", "unsafe"),
        ("/api/docs", "script-src 'self'", "script-src 'self' 'unsafe"),
        ("/admin/jobs/job/", "'unsafe-eval'", "*"),
    ],
)
def test_only_the_panel_may_run_inline_scripts(path: str, allowed: str, forbidden: str) -> None:
    policy = dict(headers_for(path))[b"content-security-policy"].decode()
    assert allowed in policy
    assert forbidden not in policy
    assert "frame-ancestors 'none'" in policy


def test_browsers_stay_on_https_where_we_are_served_so(environ: Environ) -> None:
    environ(public_url="https://anneal.example.org")
    assert b"max-age=31536000" in dict(headers_for("/healthz"))[b"strict-transport-security"]


@pytest.mark.asyncio
async def test_an_address_with_a_null_character_is_refused() -> None:
    for path in ("/api/v1/jobs?search=%00", "/api/v1/jobs/%00"):
        answer = await get(path)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_address")


async def scopes_behind(trusted: str, environ: Environ, *, peer: str = "192.0.2.1", **headers: str) -> Any:
    """The scope that an application receives for a request of `peer`."""
    scopes: list[Any] = []

    async def inner(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001 ASGI's signature
        scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    environ(trusted_proxies=trusted)
    transport = httpx.ASGITransport(proxied(inner, environment().trusted_networks), client=(peer, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
        await client.get("/", headers={name.replace("_", "-"): value for name, value in headers.items()})
    return scopes[0]


@pytest.mark.asyncio
@pytest.mark.parametrize(("trusted", "scheme"), [("", "http"), ("192.0.2.0/24", "https"), ("192.0.2.1", "https")])
async def test_the_scheme_is_taken_from_trusted_proxies_only(environ: Environ, trusted: str, scheme: str) -> None:
    forwarded = {"X_Forwarded_Proto": "https", "X_Forwarded_For": "198.51.100.1", "X_Forwarded_Host": "evil.example"}
    scope = await scopes_behind(trusted, environ, **forwarded)
    assert scope["scheme"] == scheme
    assert not [name for name, _ in scope["headers"] if b"forwarded" in name], "nothing can trust them by mistake"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("peer", "forwarded", "expected"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # not a proxy of ours: its header is ignored
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # anybody can forge what precedes the nearest hop
        ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "nonsense", "nonsense"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),  # a new port is not a new client
        ("fd00::1", "2001:db8::7", "2001:db8::7"),
        ("fd00::1", "[2001:db8::7]:4711, fd00::2", "2001:db8::7"),
        ("2001:db8::9", "2001:db8::7", "2001:db8::9"),
        ("", "198.51.100.1", ""),
    ],
)
async def test_the_client_is_taken_from_trusted_proxies_only(
    environ: Environ, peer: str, forwarded: str, expected: str
) -> None:
    scope = await scopes_behind("10.0.0.0/8, fd00::/8", environ, peer=peer, X_Forwarded_For=forwarded)
    assert scope["client"][0] == expected


def test_no_other_origin_is_allowed_in(settings: Any) -> None:
    assert not any("cors" in name.lower() for name in [*settings.MIDDLEWARE, *settings.INSTALLED_APPS])


@pytest.fixture
def served() -> Iterator[dict[str, str]]:
    secret = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    yield {**os.environ, **GOOD, "ANNEAL_PUBLIC_URL": "https://anneal.example.org", "ANNEAL_SECRET_KEY": secret}


def test_djangos_check_of_a_served_configuration_is_clean(served: dict[str, str]) -> None:
    command = [sys.executable, "-m", "api", "check", "--deploy", "--fail-level", "WARNING"]
    ended = subprocess.run(command, env=served, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert "no issues" in ended.stdout


def test_cookies_are_secure_and_unseen_by_scripts_where_we_are_served_by_https(served: dict[str, str]) -> None:
    names = "SESSION_COOKIE_SECURE CSRF_COOKIE_SECURE SESSION_COOKIE_HTTPONLY SECURE_HSTS_SECONDS"
    program = (
        f"from django.conf import settings as s; print(*(bool(getattr(s, n)) for n in {names.split()!r}), s.DEBUG)"
    )
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=served, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=True)
    assert ended.stdout.split() == ["True"] * 4 + ["False"]


def test_a_token_in_the_address_opens_nothing() -> None:
    client = person()
    header = client._credentials["HTTP_AUTHORIZATION"]
    client.credentials()
    assert client.get("/api/v1/me", {"token": header.split()[1]}).status_code == 401
