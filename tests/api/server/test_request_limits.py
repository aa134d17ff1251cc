"""A body that is too large is refused before Django reads it; files on signed links are not bodies of the API."""

import http.client
from collections.abc import Iterator

import httpx
import pytest
from django.core.cache import cache

from api.asgi import application
from api.server.request_limits import LISTS
from api.storage import storage
from tests.patience import PATIENCE_SECONDS
from tests.storage.server import serving

LOGIN = "/api/v1/auth/login"
PIECE = b" " * (1 << 20)
TOO_MANY = LISTS.max_bytes // len(PIECE) + 1


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving(lambda _: application) as base:
        yield base


def test_a_body_that_says_it_is_too_large_is_refused_unread(server: str) -> None:
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=PATIENCE_SECONDS)
    connection.putrequest("POST", LOGIN)
    connection.putheader("Content-Length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413


def test_a_body_without_a_length_is_counted(server: str) -> None:
    answer = httpx.post(server + LOGIN, content=(PIECE for _ in range(TOO_MANY)), timeout=PATIENCE_SECONDS)
    assert answer.status_code == 413
    assert answer.json().keys() == {"code", "message", "hint", "fields"}


@pytest.mark.django_db(transaction=True)
def test_a_body_within_the_limit_reaches_the_view(server: str) -> None:
    cache.clear()  # counts logins
    answer = httpx.post(server + LOGIN, content=b"{", headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_json")


def test_a_file_on_a_signed_link_may_be_larger(server: str) -> None:
    size = TOO_MANY * len(PIECE)
    link = storage().presign_put("tests/large", size=size, sha256=None, expires_seconds=60)
    url = link.url.replace("http://testserver", server)
    assert httpx.put(url, content=(PIECE for _ in range(TOO_MANY)), timeout=PATIENCE_SECONDS).status_code == 200
    assert storage().stat("tests/large").size == size
