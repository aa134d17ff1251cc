"""Every parameter of every list, with values that break a parser, a database or a clock: an answer, never a 500."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from cryptography.fernet import Fernet
from django.conf import settings
from django.contrib.auth import get_user_model
from django.test import Client
from rest_framework.test import APIClient

from api.openapi import openapi_document
from tests.api.fuzz import real_name
from tests.api.scene import scene_make
from tests.api.served import served
from tests.api.world import Environ
from tests.patience import PATIENCE_SECONDS

DATES = (
    "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "0000-01-01T00:00:00Z",
    "2026-02-30T00:00:00Z",
    "-2026-01-01T00:00:00Z",
    "+10000-01-01T00:00:00Z",
    "1e400",
    "2026-01-01",
)
TEXTS = (
    "-" * 36,
    "00000000-0000-0000-0000-000000000000",
    "{00000000-0000-0000-0000-000000000000}",
    "zzzzzzzz-zzzz-zzzz-zzzz-zzzzzzzzzzzz",
    "0" * 33,
    "\ud800",
    "a\x1b]52;c;x\x07",
    "\u202etxt",
    "٣",
    "%",
    "_\\",
    "x" * 3000,
    "a@٣",
    "a@0",
    "a@99999999999999999999",
    "[1]",
    "$.a",
    "' OR 1=1 --",
)
NUMBERS = (str(2**63), str(-(2**63) - 1), "9" * 30, "9" * 5000, "1e309", "-1", "0", "1_0", "0x10", "NaN", "Infinity")
RAW = ("%ED%A0%80", "%FF%FE", "%C0%80")
"""Already in the form that goes over the wire. %00 never gets to Django: `test_hostile_requests.py`."""
VALUES = (*(quote(value, errors="surrogatepass") for value in (*DATES, *TEXTS, *NUMBERS)), *RAW)
FEW = tuple(VALUES[i] for i in (0, 1, 2, 8, 11, 13, 17, 20, 26, 30, 37))


def lists() -> Iterator[tuple[str, list[str]]]:
    """Path and query parameters of each GET that has any."""
    for path, operations in openapi_document()["paths"].items():
        if result := operations.get("get"):
            names = [one["name"] for one in result.get("parameters", []) if one["in"] == "query"]
            if names:
                yield path, names


@pytest.mark.django_db
@pytest.mark.parametrize(
    "how_many",
    ["few, of jobs", pytest.param("some", marks=pytest.mark.slow), pytest.param("all", marks=pytest.mark.long)],
)
def test_no_value_of_any_parameter_makes_a_500(environ: Environ, how_many: str) -> None:
    environ(secrets_keys=Fernet.generate_key().decode())
    scene = scene_make()
    client: APIClient = scene.clients["admin"]
    client.raise_request_exception = False
    places = [(path, name) for path, names in lists() for name in names]
    if how_many == "some":  # others at each place, all of them together
        chosen = [(*place, value) for turn, place in enumerate(places) for value in VALUES[turn % 6 :: 6]]
    elif how_many == "all":
        chosen = [(*place, value) for place in places for value in VALUES]
    else:
        chosen = [(path, name, value) for path, name in places if path == "/api/v1/jobs" for value in FEW]
    queries = [f"{address(path, {**scene.names, **scene.seconds})}?{name}={value}" for path, name, value in chosen]
    answers: Any = ((query, client.get(query).status_code) for query in queries)
    failures = [f"{query[:160]}: {status}" for query, status in answers if status >= 500]
    assert len(queries) > 100
    assert not failures, "\n".join(failures)


def address(path: str, names: dict[str, str]) -> str:
    for part in path.split("{")[1:]:
        variable = part.split("}")[0]
        path = path.replace(f"{{{variable}}}", real_name(path, variable, names))
    return path


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("path", ["/api/schema", "/api/docs", "/readyz", "/metrics", "/nothing/here", "/"])
def test_a_session_of_the_panel_breaks_no_other_page(path: str) -> None:
    panel = Client()
    panel.force_login(get_user_model().objects.create_superuser("root", password="a long password"))
    cookies = {settings.SESSION_COOKIE_NAME: panel.cookies[settings.SESSION_COOKIE_NAME].value}
    with served() as url:
        answer = httpx.get(url + path, cookies=cookies, trust_env=False, timeout=PATIENCE_SECONDS)
    assert answer.status_code in (200, 404), answer.text
