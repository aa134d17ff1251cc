"""What a request may cost before anybody logged in: bytes, values, depth, errors in the answer."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rest_framework.exceptions import ParseError
from rest_framework.test import APIClient

from api.accounts.schemas import LoginRequest
from api.catalog.models import Dataset, DatasetVersion, Upload
from api.errors import MAX_ERRORS, problem_of
from api.parsing import MAX_DEPTH, MAX_KEYS, json_bounds_check
from api.server.request_limits import DEFAULT, LISTS, PASSWORD, BodyLimit, body_limit_for
from tests.api.actors import person
from tests.api.served import served
from tests.api.world import Environ, version_make

pytestmark = pytest.mark.django_db
LOGIN = "/api/v1/auth/login"


@pytest.fixture
def url() -> Iterator[str]:
    with served() as address:
        yield address


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        (LOGIN, PASSWORD),
        ("/api/v1/me/password", PASSWORD),
        ("/admin/login/", PASSWORD),
        ("/api/v1/jobs", DEFAULT),
        ("/api/v1/datasets/cats/uploads", LISTS),
        ("/api/v1/models/base/uploads", LISTS),
        ("/api/v1/datasets/cats@2/captions", LISTS),
        ("/internal/v1/attempts/x/events", LISTS),
        ("/api/v1/datasets/cats/uploads/x/complete", DEFAULT),
        ("/admin/auth/user/add/", DEFAULT),
    ],
)
def test_each_route_has_its_limit(path: str, limit: BodyLimit) -> None:
    assert body_limit_for(path) is limit


@pytest.mark.django_db(transaction=True)
def test_a_login_of_500_000_keys_is_refused_by_its_length(url: str) -> None:
    body = json.dumps({f"k{i}": 0 for i in range(500_000)})
    answer = httpx.post(url + LOGIN, content=body, headers={"Content-Type": "application/json"}, trust_env=False)
    assert (answer.status_code, len(answer.content) < 1000) == (413, True)


@pytest.mark.parametrize("limit", [PASSWORD, DEFAULT, LISTS])
def test_values_and_depth_are_counted_before_json_is_built(monkeypatch: pytest.MonkeyPatch, limit: BodyLimit) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", never)
    monkeypatch.setattr(json, "load", never)
    many = b"[" + b"0," * limit.max_values + b"0]"
    keys = b"{" + b",".join(b'"%d":0' % i for i in range(limit.max_values + 1)) + b"}"
    for body in (many, keys, b"[" * (MAX_DEPTH + 1), b'{"a":' * (MAX_DEPTH + 1)):
        with pytest.raises(ParseError):
            json_bounds_check(body, limit)


def test_marks_inside_texts_are_no_values() -> None:
    text = json.dumps({"prompt": '[{,"\\' * 1000, 'a"b[': ["\\", "é,"]}).encode()
    json_bounds_check(text, BodyLimit(10**6, 10))


def test_an_object_of_too_many_keys_is_refused() -> None:
    writer = person()
    assert writer.post("/api/v1/datasets", {"name": "d"}, format="json").status_code == 201
    answer = writer.post("/api/v1/datasets/d/uploads", dict.fromkeys(map(str, range(MAX_KEYS + 1)), 0), format="json")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_json")


def test_an_answer_has_20_errors_and_says_how_many_more() -> None:
    with pytest.raises(ValueError, match="validation error") as caught:
        LoginRequest.model_validate({**dict.fromkeys(map(str, range(5000)), 0), "x" * 10_000: 1})
    problem = problem_of(caught.value)
    assert problem is not None
    assert len(problem.fields) == MAX_ERRORS
    assert "and 5002 more" in problem.message
    assert len(json.dumps(problem.body())) < 10_000


def test_over_the_rate_a_login_is_refused_unparsed(environ: Environ, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.accounts.limits.time.time", lambda: 6000.0)
    environ(logins_per_minute_address=1)
    post = APIClient().post
    assert post(LOGIN, b"{", content_type="application/json").status_code == 400
    assert post(LOGIN, b"{", content_type="application/json").status_code == 429


def announce(client: APIClient, sizes: list[int]) -> Any:
    files = [{"path": f"{n}.bin", "size": size, "sha256": f"{n:064x}"} for n, size in enumerate(sizes)]
    return client.post("/api/v1/datasets/d/uploads", {"files": files}, format="json")


@pytest.fixture
def writer() -> APIClient:
    client = person()
    assert client.post("/api/v1/datasets", {"name": "d"}, format="json").status_code == 201
    return client


def test_three_files_of_a_tebibyte_get_no_links(writer: APIClient) -> None:
    answer = announce(writer, [2**40] * 3)
    assert (answer.status_code, answer.json()["code"]) == (400, "too_large")
    assert not Upload.objects.exists()


def test_a_file_of_a_tebibyte_goes_in_at_most_1000_parts(writer: APIClient) -> None:
    answer = announce(writer, [2**40])
    parts = answer.json()["files"][0]["parts"]
    assert len(parts) <= 1000
    assert sum(part["size"] for part in parts) == 2**40


def test_many_files_of_many_parts_get_no_links_at_once(writer: APIClient, environ: Environ) -> None:
    environ(part_bytes=5 * 2**20)
    assert announce(writer, [5 * 2**30] * 6).json()["code"] == "too_large"
    assert announce(writer, [5 * 2**30] * 4).status_code == 200


def test_open_uploads_of_a_project_are_bounded_and_those_of_others_are_not(writer: APIClient, environ: Environ) -> None:
    environ(project_upload_bytes=2**30, part_bytes=2**30)
    assert announce(writer, [2**29]).status_code == 200
    full = announce(writer, [2**29 + 1])
    assert (full.status_code, full.json()["code"]) == (409, "uploads_full")
    other = person("other")
    assert other.post("/api/v1/datasets", {"name": "d"}, format="json").status_code == 201
    assert announce(other, [2**29 + 1]).status_code == 200
    environ(upload_hours=0)
    assert announce(writer, [2**29 + 1]).status_code == 200


def test_an_upload_that_became_a_version_is_not_open(writer: APIClient, environ: Environ) -> None:
    environ(project_upload_bytes=2**30, part_bytes=2**30)
    key = f"datasets/{announce(writer, [2**29]).json()['upload']}"
    version_make(DatasetVersion, Dataset.objects.get(), f"{key}.files", [])
    assert announce(writer, [2**29 + 1]).status_code == 200
