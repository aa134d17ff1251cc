"""States of versions, archives, previews, deletion: what happens to files between upload and use."""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rest_framework.test import APIClient

from api.accounts.models import Project
from api.audit import clock
from api.audit.models import Audit
from api.catalog.models import Dataset, DatasetVersion, PretrainedModel, PretrainedModelVersion, Removal
from api.catalog.removals import removals_sweep
from api.catalog.versions.check_run import stale_folders_sweep
from api.catalog.versions.checks import HOLD_SECONDS, MAX_TRIES, versions_check
from api.catalog.versions.create import version_from_files
from api.jobs.models import Job
from api.storage import storage, storage_app
from tests.api.actors import HTTP, Files, base_model, file_list, images, metadata, person, png, send, upload
from tests.api.archives import zipped
from tests.api.world import Environ, World
from tests.storage.server import serving

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


def stored(kind: str = "datasets") -> list[str]:
    return [key for key, _ in storage().list(f"{kind}/")]


@pytest.fixture(autouse=True)
def empty_storage() -> None:
    for kind in ("datasets", "models"):
        storage().delete_prefix(f"{kind}/")


def upload_zip(client: APIClient, links: str, kind: str, name: str, data: bytes) -> Any:
    client.post(f"/api/v1/{kind}", {"name": name}, format="json")
    body = {"files": file_list({"all.zip": data}), "unpack": True}
    announced = client.post(f"/api/v1/{kind}/{name}/uploads", body, format="json").json()
    send(announced, links, {"all.zip": data})
    return client.post(f"/api/v1/{kind}/{name}/versions", {"upload": announced["upload"]}, format="json")


def test_a_refused_upload_leaves_no_file_and_no_row(links: str) -> None:
    answer = upload(person(), links, "datasets", "cats", {**images(), "x.png": b"no image"})
    assert answer.status_code == 400
    assert "x.png" in answer.json()["message"]
    assert stored() == []
    assert not DatasetVersion.objects.exists()


def test_a_file_that_came_late_is_no_refusal(links: str) -> None:
    anna, files = person(), images()
    anna.post("/api/v1/datasets", {"name": "cats"}, format="json")
    body = {"files": file_list(files)}
    announced = anna.post("/api/v1/datasets/cats/uploads", body, format="json").json()
    early = anna.post("/api/v1/datasets/cats/versions", {"upload": announced["upload"]}, format="json")
    send(announced, links, files)
    late = anna.post("/api/v1/datasets/cats/versions", {"upload": announced["upload"]}, format="json")
    assert (early.json()["code"], late.status_code) == ("file_missing", 201)


def test_a_large_upload_is_checked_later(links: str, environ: Environ) -> None:
    environ(check_now_bytes=10)
    anna = person()
    waiting = upload(anna, links, "datasets", "cats", images())
    assert (waiting.status_code, waiting.json()["state"], waiting.json()["versions"]) == (202, "checking", [])
    assert upload(anna, links, "datasets", "cats", images()).status_code == 202
    assert anna.get("/api/v1/datasets/cats").json()["unready"] == [{"version": 1, "state": "checking", "reason": None}]
    assert versions_check() == 1
    shown = anna.get("/api/v1/datasets/cats").json()
    assert (shown["version"], shown["state"], shown["unready"]) == (1, "ready", [])
    assert shown["details"]["num_images"] == 2
    kinds = Audit.objects.filter(kind__startswith="version").order_by("pk").values_list("kind", "actor")
    assert list(kinds) == [("version_created", "user:writer-of-default"), ("version_ready", "dispatcher")]


def test_an_upload_of_very_many_files_is_checked_later(links: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.catalog.versions.create.MAX_FILES_NOW", 2)
    assert upload(person(), links, "datasets", "cats", images(2)).status_code == 202
    assert upload(person(), links, "datasets", "dogs", images(1)).status_code == 201


def test_a_version_refused_later_says_why_and_cannot_be_used(links: str, environ: Environ, world: World) -> None:
    environ(check_now_bytes=10)
    anna = person(world.project.name)
    upload(anna, links, "datasets", "cats", {"x.png": b"no image at all"})
    body = {**world.request, "dataset": "cats"}
    early = anna.post("/api/v1/jobs", body, format="json")
    assert (early.status_code, early.json()["code"]) == (409, "version_not_ready")
    assert "checking" in early.json()["message"]
    versions_check()
    shown = anna.get("/api/v1/datasets/cats@1").json()
    assert (shown["state"], shown["files"]) == ("refused", [])
    assert "x.png is not a PNG" in shown["reason"]["message"]
    late = anna.post("/api/v1/jobs", body, format="json")
    assert (late.status_code, late.json()["code"]) == (409, "version_not_ready")
    assert "x.png is not a PNG" in late.json()["message"]
    assert stored() == []
    good = upload(anna, links, "datasets", "cats", images())
    assert (good.status_code, good.json()["version"]) == (202, 2)


def test_a_version_whose_checker_died_is_checked_again(
    links: str, environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ(check_now_bytes=10)
    upload(person(), links, "datasets", "cats", images())
    later = clock.now() + timedelta(seconds=HOLD_SECONDS)
    DatasetVersion.objects.update(check_until=later, check_tries=1)
    assert versions_check() == 0
    monkeypatch.setattr("api.catalog.versions.checks.now", lambda: later + timedelta(seconds=1))
    assert versions_check() == 1
    assert DatasetVersion.objects.get().state == "ready"


def test_a_check_that_breaks_again_and_again_ends_as_refused(
    links: str, environ: Environ, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ(check_now_bytes=10)
    upload(person(), links, "datasets", "cats", images())
    monkeypatch.setattr("sys.executable", "/bin/false")
    for _ in range(MAX_TRIES):
        DatasetVersion.objects.update(check_until=None)
        versions_check()
    version = DatasetVersion.objects.get()
    assert (version.state, version.reason["code"]) == ("refused", "check_failed")


@pytest.mark.any_database
def test_a_check_past_its_memory_names_the_file(links: str, environ: Environ) -> None:
    environ(check_memory_bytes=2**27)
    big = png(8000, 8000)
    answer = upload(person(), links, "datasets", "cats", {"a.png": png(), "big.png": big})
    assert (answer.status_code, answer.json()["code"]) == (400, "check_limit")
    assert "big.png" in answer.json()["message"]


def test_a_zip_becomes_its_files(links: str) -> None:
    anna, files = person(), images()
    created = upload_zip(
        anna, links, "datasets", "cats", zipped({f"cats/{path}": data for path, data in files.items()})
    )
    assert created.status_code == 201, created.json()
    for file in created.json()["files"]:
        assert HTTP.get(file["url"].replace("http://testserver", links)).content == files[file["path"]]
    assert not [key for key in stored() if key.endswith(".zip")]
    again = upload(anna, links, "datasets", "cats", files)
    assert (again.status_code, again.json()["versions"]) == (200, [1])
    once_more = upload_zip(anna, links, "datasets", "cats", zipped(files))
    assert (once_more.status_code, once_more.json()["versions"]) == (200, [1])


def test_a_zip_of_a_base_model_is_one(links: str, environ: Environ) -> None:
    anna = person()
    environ(check_now_bytes=10)
    packed = zipped({f"top/{path}": data for path, data in base_model().items()})
    assert upload_zip(anna, links, "models", "tiny", packed).status_code == 202
    versions_check()
    shown = anna.get("/api/v1/models/tiny").json()
    assert (shown["family"], shown["state"]) == ("sd1", "ready")
    assert shown["details"]["components"]["unet"] > 0
    assert not [key for key in stored("models") if key.endswith(".zip")]


def test_only_one_zip_can_be_unpacked() -> None:
    anna = person()
    anna.post("/api/v1/datasets", {"name": "cats"}, format="json")
    for files in (images(), {"a.zip": b"1", "b.zip": b"2"}):
        body = {"files": file_list(files), "unpack": True}
        answer = anna.post("/api/v1/datasets/cats/uploads", body, format="json")
        assert (answer.status_code, list(answer.json()["fields"])) == (400, ["files"])


def test_the_preview_shows_images_in_pages_with_thumbnails(links: str, tmp_path: Path) -> None:
    anna = person()
    files: Files = {f"{n:03d}.png": png(600, 300, seed=n) for n in range(7)}
    files["metadata.jsonl"] = metadata([{"file_name": path, "text": f"image {path}"} for path in files])
    assert upload(anna, links, "datasets", "cats", files).status_code == 201
    first = anna.get("/api/v1/datasets/cats/preview?limit=4").json()
    second = anna.get(first["next"]).json()
    items = [*first["results"], *second["results"]]
    assert [item["path"] for item in items] == sorted(files)[:7]
    assert items[0]["caption"] == "image 000.png"
    assert (items[0]["width"], items[0]["height"], second["next"]) == (600, 300, None)
    got = HTTP.get(items[0]["thumbnail"].replace("http://testserver", links))
    assert got.headers["content-type"] == "image/jpeg"
    (tmp_path / "thumbnail").write_bytes(got.content)
    assert Image.open(tmp_path / "thumbnail").size == (256, 128)


def test_the_preview_of_rows_and_of_nothing(links: str) -> None:
    anna = person()
    anna.post("/api/v1/datasets", {"name": "empty"}, format="json")
    assert anna.get("/api/v1/datasets/empty/preview").json() == {"results": [], "next": None}
    rows = metadata([{"question": f"{n} + {n}?", "answer": str(2 * n)} for n in range(150)])
    created = upload(anna, links, "datasets", "sums", {"rows.jsonl": rows}).json()
    assert (created["details"]["kind"], created["details"]["num_rows"]) == ("text", 150)
    page = anna.get("/api/v1/datasets/sums/preview?limit=20&cursor=95").json()
    assert [item["line"] for item in page["results"]] == list(range(96, 116))
    assert page["results"][0]["row"] == {"question": "95 + 95?", "answer": "190"}
    assert anna.get("/api/v1/datasets/sums/preview?cursor=x").status_code == 400
    assert person("other").get("/api/v1/datasets/sums/preview").status_code == 404


def test_a_method_for_images_refuses_rows(links: str, world: World) -> None:
    anna = person(world.project.name)
    upload(anna, links, "datasets", "sums", {"rows.jsonl": metadata([{"text": "one"}])})
    answer = anna.post("/api/v1/jobs", {**world.request, "dataset": "sums"}, format="json")
    assert answer.status_code == 400
    assert "image_lora needs a dataset of images, but sums@1 holds text" in json.dumps(answer.json())


def test_files_that_a_job_published_become_a_version(tmp_path: Path, project: Project) -> None:
    record = PretrainedModel.objects.create(project=project, name="fetched")
    files = base_model()
    for path, data in files.items():
        (tmp_path / "file").write_bytes(data)
        storage().put_file(f"jobs/1/1/model/{path}", tmp_path / "file")
    listed = file_list(files)
    source = {"repo": "someone/model", "commit": "0" * 40}
    version = version_from_files(record=record, key="jobs/1/1/model", files=listed, source=source, by="job:1")
    assert version.state == "checking"
    same = version_from_files(record=record, key="jobs/1/1/model", files=listed, source=source, by="job:1")
    assert same.pk == version.pk
    versions_check()
    result = PretrainedModelVersion.objects.get()
    assert (result.state, result.family, result.details["source"]) == ("ready", "sd1", source)


def test_a_version_in_use_is_not_deleted(world: World) -> None:
    anna = person(world.project.name)
    job = anna.post("/api/v1/jobs", world.request, format="json").json()
    template = {"name": "mine", "method": "image_lora", "dataset": "shapes", "params": {"adaptor_name": "x"}}
    assert anna.post("/api/v1/templates", template, format="json").status_code == 201
    for ref in ("shapes", "shapes@1"):
        answer = anna.delete(f"/api/v1/datasets/{ref}")
        assert (answer.status_code, answer.json()["code"]) == (409, "in_use")
        assert job["id"] in answer.json()["message"]
        assert answer.json()["fields"]["templates"] == ["mine"]
    assert anna.delete("/api/v1/models/base").status_code == 409
    Job.objects.update(state="cancelled")
    anna.delete("/api/v1/templates/mine")
    assert anna.delete("/api/v1/datasets/shapes@1").status_code == 204
    assert anna.delete("/api/v1/models/base").status_code == 204
    assert anna.get("/api/v1/models/base").status_code == 404


def test_a_deleted_version_takes_its_files_and_its_number_with_it(links: str) -> None:
    anna = person()
    upload(anna, links, "datasets", "cats", images(1))
    upload(anna, links, "datasets", "cats", images(2))
    before = len(stored())
    assert person("other").delete("/api/v1/datasets/cats").status_code == 404
    assert anna.delete("/api/v1/datasets/cats@2").status_code == 204
    assert len(stored()) == before, "files go after the commit"
    removals_sweep()
    assert not Removal.objects.exists()
    assert len(stored()) < before
    assert upload(anna, links, "datasets", "cats", images(3)).json()["version"] == 3
    assert anna.delete("/api/v1/datasets/cats").status_code == 204
    removals_sweep()
    assert stored() == []
    assert not Dataset.objects.exists()


def test_copies_that_a_killed_check_left_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name, age_seconds in (("anneal-check-old", 10**6), ("anneal-check-new", 0), ("other", 10**6)):
        (tmp_path / name / "in").mkdir(parents=True)
        os.utime(tmp_path / name, (time.time() - age_seconds,) * 2)
    stale_folders_sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["anneal-check-new", "other"]


def photo() -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", exif=exif.tobytes())
    return buffer.getvalue()


@pytest.mark.parametrize("later", [False, True])
def test_metadata_stays_with_a_notice_or_is_removed_on_request(
    links: str, later: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    anna, files = person(), {"a.jpg": photo(), "a.txt": b"a wall"}
    retained = upload(anna, links, "datasets", "walls", files).json()
    assert retained["warnings"] == [
        "1 images hold GPS positions, which are kept; upload with strip_metadata to remove them: a.jpg"
    ]
    if later:
        monkeypatch.setattr("api.catalog.versions.create.MAX_FILES_NOW", 0)
    body = {"files": file_list(files), "strip_metadata": True}
    announced = anna.post("/api/v1/datasets/walls/uploads", body, format="json").json()
    send(announced, links, files)
    body = {"upload": announced["upload"]}
    answer = anna.post("/api/v1/datasets/walls/versions", body, format="json")
    assert answer.status_code == (202 if later else 201), answer.json()
    versions_check()
    stripped = anna.get("/api/v1/datasets/walls").json()
    assert (stripped["version"], stripped["details"]["num_stripped"]) == (2, 1)
    url = next(file["url"] for file in stripped["files"] if file["path"] == "a.jpg")
    content = HTTP.get(url.replace("http://testserver", links)).content
    with Image.open(BytesIO(content)) as image:
        assert not image.getexif()
