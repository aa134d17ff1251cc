"""Datasets and base models over HTTP: names, versions, pages, who sees what."""

from collections.abc import Iterator
from typing import Any

import pytest

from api.catalog.models import DatasetVersion
from api.storage import storage_app
from tests.api.actors import HTTP, base_model, images, person, png, upload
from tests.storage.server import serving

pytestmark = pytest.mark.django_db


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


def test_a_dataset_is_uploaded_and_read_back(links: str) -> None:
    anna, files = person(), images()
    created = upload(anna, links, "datasets", "cats", files)
    assert created.status_code == 201
    shown = anna.get("/api/v1/datasets/cats").json()
    assert created.json()["digest"] == shown["digest"]
    assert (shown["version"], shown["versions"], shown["num_files"]) == (1, [1], 3)
    assert shown["size_bytes"] == sum(len(data) for data in files.values())
    assert shown["details"].items() >= {"kind": "images", "num_images": 2, "num_captions": 2}.items()
    assert (shown["state"], shown["reason"], shown["unready"], shown["notices"]) == ("ready", None, [], [])
    for file in shown["files"]:
        got = HTTP.get(file["url"].replace("http://testserver", links))
        assert got.content == files[file["path"]]


def test_a_base_model_knows_its_family(links: str) -> None:
    created = upload(person(), links, "models", "tiny", base_model())
    assert (created.status_code, created.json()["family"]) == (201, "sd1")


def test_the_same_content_again_is_the_same_version_and_needs_no_sending(links: str) -> None:
    anna = person()
    first = upload(anna, links, "datasets", "cats", images())
    again = upload(anna, links, "datasets", "cats", images())
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["versions"] == [1]
    assert [f["sha256"] for f in again.json()["files"]] == [f["sha256"] for f in first.json()["files"]]


def test_a_new_content_is_the_next_version_and_the_old_one_stays(links: str) -> None:
    anna = person()
    upload(anna, links, "datasets", "cats", images(1))
    upload(anna, links, "datasets", "cats", images(3))
    assert anna.get("/api/v1/datasets/cats").json()["version"] == 2
    assert anna.get("/api/v1/datasets/cats@1").json()["num_files"] == 2
    assert upload(anna, links, "datasets", "cats", images(1)).json()["version"] == 1
    missing = anna.get("/api/v1/datasets/cats@7")
    assert missing.status_code == 404
    assert "it has 1, 2" in missing.json()["message"]


def test_asking_for_the_version_of_one_upload_twice_gives_it_twice(links: str) -> None:
    anna = person()
    created = upload(anna, links, "datasets", "cats", images())
    key = DatasetVersion.objects.get().key
    again = anna.post("/api/v1/datasets/cats/versions", {"upload": key.split("/")[1]}, format="json")
    assert again.status_code == 200
    assert {**again.json(), "files": []} == {**created.json(), "files": []}


def test_a_taken_name_is_409_and_an_odd_one_400() -> None:
    anna = person()
    assert anna.post("/api/v1/datasets", {"name": "cats"}, format="json").status_code == 201
    taken = anna.post("/api/v1/datasets", {"name": "cats"}, format="json")
    assert (taken.status_code, taken.json()["code"]) == (409, "name_taken")
    for name in ("", "a/b", "../x", "a b", "-x", "x" * 101, "cats@1"):
        odd = anna.post("/api/v1/models", {"name": name}, format="json")
        assert odd.status_code == 400, name
        assert "name" in odd.json()["fields"]


def test_a_dataset_without_a_version_shows_nulls() -> None:
    anna = person()
    anna.post("/api/v1/datasets", {"name": "cats"}, format="json")
    shown = anna.get("/api/v1/datasets/cats").json()
    assert (shown["version"], shown["versions"], shown["digest"], shown["files"]) == (None, [], None, [])
    assert anna.get("/api/v1/datasets").json()["results"][0]["version"] is None


def test_lists_come_in_pages_newest_first_and_can_be_searched() -> None:
    anna = person()
    for number in range(5):
        anna.post("/api/v1/datasets", {"name": f"cats{number}"}, format="json")
    first = anna.get("/api/v1/datasets?limit=3").json()
    second = anna.get(first["next"]).json()
    names = [row["name"] for row in (*first["results"], *second["results"])]
    assert names == [f"cats{number}" for number in (4, 3, 2, 1, 0)]
    assert second["next"] is None
    assert [row["name"] for row in anna.get("/api/v1/datasets?search=TS3").json()["results"]] == ["cats3"]


@pytest.mark.parametrize("kind", ["datasets", "models"])
def test_a_stranger_sees_nothing(links: str, kind: str) -> None:
    files = images() if kind == "datasets" else base_model()
    created = upload(person("ours"), links, kind, "secret", files)
    key = created.json()["files"][0]["url"].split("/storage/")[1].split("/")[1]
    stranger = person("theirs", role="admin")
    assert stranger.get(f"/api/v1/{kind}").json()["results"] == []
    assert stranger.get(f"/api/v1/{kind}/secret").status_code == 404
    assert stranger.get(f"/api/v1/{kind}/secret@1").status_code == 404
    body: dict[str, Any] = {"files": [{"path": "a.png", "size": 1, "sha256": "0" * 64}]}
    assert stranger.post(f"/api/v1/{kind}/secret/uploads", body, format="json").status_code == 404
    assert stranger.post(f"/api/v1/{kind}/secret/versions", {"upload": key}, format="json").status_code == 404
    stranger.post(f"/api/v1/{kind}", {"name": "mine"}, format="json")
    assert stranger.post(f"/api/v1/{kind}/mine/versions", {"upload": key}, format="json").status_code == 404


def test_two_projects_may_use_the_same_name(links: str) -> None:
    assert upload(person("a"), links, "datasets", "cats", images()).status_code == 201
    assert upload(person("b"), links, "datasets", "cats", images()).status_code == 201


def test_without_a_token_there_is_nothing() -> None:
    nobody = person()
    nobody.credentials()
    for path in ("datasets", "datasets/x", "models", "templates", "adaptors", "methods", "me"):
        assert nobody.get(f"/api/v1/{path}").status_code == 401, path


def test_the_number_of_queries_does_not_grow_with_the_rows(links: str, django_assert_max_num_queries: Any) -> None:
    anna = person()
    for number in range(6):
        upload(anna, links, "datasets", f"cats{number}", {"a.png": png(seed=number)})
    for path in ("datasets", "datasets/cats1", "datasets/cats1/preview", "models", "templates", "adaptors"):
        with django_assert_max_num_queries(5):
            assert anna.get(f"/api/v1/{path}").status_code == 200
