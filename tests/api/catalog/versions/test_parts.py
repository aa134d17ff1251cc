"""Large files in signed parts, and uploads that nobody finished: on the local folder and on a real S3 server."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.audit.models import Audit
from api.catalog.models import DatasetVersion, Upload
from api.catalog.versions.uploads import uploads_sweep
from api.environment import environment
from api.monitoring import storage_capabilities
from api.storage import storage
from storage import Storage
from storage.links import link_app
from storage.local import LocalStorage
from tests.api.actors import HTTP, Files, file_list, images, person
from tests.api.host import Host
from tests.api.jobs.test_claim import submit
from tests.api.world import Environ, World
from tests.storage.seaweed import seaweed_running
from tests.storage.server import serving

pytestmark = pytest.mark.django_db
PART = 5 << 20
LARGE = os.urandom(2 * PART + 3)
FILES: Files = {**images(), "notes/large.bin": LARGE}


@contextmanager
def on_folder(folder: Path) -> Iterator[dict[str, Any]]:
    def app(base: str) -> object:
        return link_app(LocalStorage(folder, link_base=f"{base}/storage", secret=environment().secret_key))

    with serving(app) as base:
        yield {"storage_url": f"file://{folder}", "public_url": base}


@contextmanager
def on_s3(folder: Path) -> Iterator[dict[str, Any]]:
    with seaweed_running(folder) as seaweed:
        yield {name.removeprefix("ANNEAL_").lower(): value for name, value in seaweed.env.items()}


@pytest.fixture(scope="module", params=[on_folder, on_s3])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Settings of the API for one storage."""
    with request.param(tmp_path_factory.mktemp("storage")) as report:
        yield report


@pytest.fixture(autouse=True)
def backend(place: dict[str, Any], environ: Environ) -> Iterator[Storage]:
    """The API's storage is this one, and parts are as small as S3 takes them."""
    environ(part_bytes=PART, **place)
    storage.cache_clear()
    yield storage()
    storage.cache_clear()


@pytest.fixture
def anna() -> APIClient:
    client = person()
    client.post("/api/v1/datasets", {"name": "cats"}, format="json")
    return client


def announce(client: APIClient, sent: Files) -> dict[str, Any]:
    answer = client.post("/api/v1/datasets/cats/uploads", {"files": file_list(sent)}, format="json")
    assert answer.status_code == 200, answer.json()
    result: dict[str, Any] = answer.json()
    return result


def large_link(announced: dict[str, Any]) -> dict[str, Any]:
    (link,) = [link for link in announced["files"] if link["parts"]]
    return dict(link)


def send_parts(link: dict[str, Any], data: bytes = LARGE) -> list[str]:
    etags, start = [], 0
    for part in link["parts"]:
        answer = HTTP.put(part["url"], content=data[start : start + part["size"]])
        answer.raise_for_status()
        etags.append(answer.headers["etag"])
        start += part["size"]
    return etags


def complete(client: APIClient, announced: dict[str, Any], etags: list[str], **changed: Any) -> Any:
    link = large_link(announced)
    body = {"path": link["path"], "upload_id": link["upload_id"], "etags": etags, **changed}
    return client.post(f"/api/v1/datasets/cats/uploads/{announced['upload']}/complete", body, format="json")


def test_a_large_file_comes_in_parts_and_is_whole_after_complete(anna: APIClient, backend: Storage) -> None:
    announced = announce(anna, FILES)
    link = large_link(announced)
    assert [(part["number"], part["size"]) for part in link["parts"]] == [(1, PART), (2, PART), (3, 3)]
    assert link["url"] is None
    etags = send_parts(link)
    for _ in range(2):
        answer = complete(anna, announced, etags)
        assert answer.status_code == 200, answer.json()
        digest = hashlib.sha256(LARGE).hexdigest()
        assert answer.json() == {"path": "notes/large.bin", "size": len(LARGE), "sha256": digest}
    key = f"datasets/{announced['upload']}/notes/large.bin"
    assert b"".join(backend.open_range(key)) == LARGE


def test_parts_of_another_content_are_refused_and_leave_nothing(anna: APIClient, backend: Storage) -> None:
    announced = announce(anna, FILES)
    etags = send_parts(large_link(announced), LARGE[::-1])
    answer = complete(anna, announced, etags)
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong_digest")
    assert list(backend.list(f"datasets/{announced['upload']}/")) == []


def test_a_part_that_was_not_sent_is_a_sentence(anna: APIClient) -> None:
    announced = announce(anna, FILES)
    answer = complete(anna, announced, ["0" * 32] * 3)
    assert (answer.status_code, answer.json()["code"]) == (409, "part_missing")
    assert "notes/large.bin" in answer.json()["message"]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"path": "../x"}, "path"),
        ({"path": "0.jpg"}, "path"),
        ({"upload_id": ""}, "upload_id"),
    ],
)
def test_a_wrong_complete_names_its_field(anna: APIClient, changed: dict[str, Any], field: str) -> None:
    answer = complete(anna, announce(anna, FILES), ["x"], **changed)
    assert answer.status_code == 400
    assert field in answer.json()["fields"]


def test_no_etags_are_no_parts(anna: APIClient) -> None:
    answer = complete(anna, announce(anna, FILES), [])
    assert (answer.status_code, list(answer.json()["fields"])) == (400, ["etags"])


def test_strangers_and_readers_complete_nothing(anna: APIClient) -> None:
    announced = announce(anna, FILES)
    assert complete(person("other", "admin"), announced, ["x"]).status_code == 404
    assert complete(person(role="reader"), announced, ["x"]).status_code == 403


def test_an_attempt_sends_parts_and_a_published_path_takes_no_other_content(
    host: Host, user: APIClient, world: World
) -> None:
    submit(user, world)
    attempt = host.claim()
    entry = {"path": "samples/large.bin", "size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest()}
    (link,) = attempt.post("uploads", {"files": [entry]}).json()["files"]
    (fresh,) = attempt.post("uploads", {"files": [{**entry, "upload_id": link["upload_id"]}]}).json()["files"]
    assert fresh["upload_id"] == link["upload_id"]
    joining = {**entry, "upload_id": link["upload_id"], "etags": send_parts(fresh)}
    for _ in range(2):
        assert attempt.post("uploads/complete", joining).json() == entry
    (again,) = attempt.post("uploads", {"files": [entry]}).json()["files"]
    assert (again["url"], again["parts"]) == (None, [])
    report = {"kind": "sample", "step": 1, "path": "samples/large.bin", "files": [entry]}
    assert attempt.post("artifacts", report).status_code == 200
    refused = attempt.post("uploads", {"files": [{**entry, "sha256": "0" * 64}]})
    assert (refused.status_code, refused.json()["code"]) == (409, "artifact_differs")


def test_an_old_upload_without_a_version_is_swept_with_its_files_and_parts(
    anna: APIClient, backend: Storage, environ: Environ
) -> None:
    environ(upload_hours=7)
    announced = announce(anna, FILES)
    link = large_link(announced)
    first = next(link for link in announced["files"] if link["url"])
    HTTP.request("PUT", first["url"], headers=first["headers"], content=FILES[first["path"]]).raise_for_status()
    assert uploads_sweep() == 0
    Upload.objects.update(created=timezone.now() - timedelta(hours=8, minutes=1))
    assert (
        anna.post("/api/v1/datasets/cats/versions", {"upload": announced["upload"]}, format="json").status_code == 404
    ), "too old to become a version, so that no check can meet the sweep"
    assert uploads_sweep() == 1
    assert not Upload.objects.exists()
    assert list(backend.list(f"datasets/{announced['upload']}/")) == []
    (report,) = Audit.objects.filter(kind="upload_swept")
    assert (report.object, report.actor) == (f"upload:{announced['upload']}", "dispatcher")
    assert HTTP.put(link["parts"][0]["url"], content=LARGE[:PART]).status_code == 200, "its parts are younger"


def test_an_upload_that_became_a_version_keeps_its_files(project: Project, backend: Storage, anna: APIClient) -> None:
    announced = announce(anna, images())
    key = f"datasets/{announced['upload']}"
    backend.put_if_absent(f"{key}/0.png", b"kept")
    dataset = project.datasets.get(name="cats")
    report = {"version": 1, "digest": "0" * 64, "files": [], "num_files": 0, "size_bytes": 0}
    DatasetVersion.objects.create(record=dataset, key=key, **report)
    Upload.objects.update(created=timezone.now() - timedelta(days=30))
    assert uploads_sweep() == 0
    assert not Upload.objects.exists(), "the row has done its work"
    assert [path for path, _ in backend.list(f"{key}/")] == [f"{key}/0.png"]
    assert not Audit.objects.filter(kind="upload_swept").exists()


def test_what_the_storage_can_is_told(client: Any) -> None:
    report = storage_capabilities()
    assert report["if_absent"] and report["parts"] and report["ranges"] and report["put_checks_sha256"]
    assert client.get("/readyz").json()["storage_capabilities"] == report
