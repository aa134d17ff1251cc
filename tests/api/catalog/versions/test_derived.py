"""New versions of a dataset out of what is there: other captions, and images that jobs made."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from rest_framework.test import APIClient

from api.catalog.models import DatasetVersion
from api.catalog.versions.checks import versions_check
from api.jobs.models import Artifact
from api.storage import storage, storage_app
from tests.api.actors import Files, images, metadata, person, png, upload
from tests.api.host import Agent, Host
from tests.api.world import Environ, World
from tests.storage.server import serving

pytestmark = pytest.mark.django_db
CSV = b'file_name,text,long\n0.png,"a, b",long\n1.png,two,longer\n'


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


@pytest.fixture
def anna() -> APIClient:
    return person()


def edit(client: APIClient, captions: dict[str, Any], ref: str = "cats", **more: Any) -> Any:
    return client.post(f"/api/v1/datasets/{ref}/captions", {"captions": captions, **more}, format="json")


def content(version: int) -> Files:
    row = DatasetVersion.objects.get(version=version, record__name="cats")
    return {file["path"]: b"".join(storage().open_range(f"{row.key}/{file['path']}")) for file in row.files}


def captions_of(client: APIClient, ref: str) -> dict[str, str]:
    items = client.get(f"/api/v1/datasets/{ref}/preview").json()["results"]
    return {item["path"]: item["caption"] for item in items}


def test_other_captions_are_a_version_that_no_file_was_sent_for(anna: APIClient, links: str) -> None:
    before = upload(anna, links, "datasets", "cats", images(3)).json()
    answer = edit(anna, {"1.png": "a grey cat"})
    assert (answer.status_code, answer.json()["version"]) == (201, 2), answer.content
    assert captions_of(anna, "cats@2") == {"0.png": "image 0.png", "1.png": "a grey cat", "2.png": "image 2.png"}
    assert captions_of(anna, "cats@1")["1.png"] == "image 1.png"
    assert answer.json()["details"]["source"] == {"captions_of": "cats@1"}
    assert {path: data for path, data in content(2).items() if path.endswith("png")} == {
        path: data for path, data in content(1).items() if path.endswith("png")
    }
    assert before["digest"] != answer.json()["digest"]
    anna.delete("/api/v1/datasets/cats@1")
    assert content(2)["0.png"] == images(1)["0.png"]


def test_the_same_captions_are_the_same_version(anna: APIClient, links: str) -> None:
    upload(anna, links, "datasets", "cats", images(2))
    assert edit(anna, {"1.png": "image 1.png"}).status_code == 200
    assert edit(anna, {"1.png": "new"}).status_code == 201
    assert edit(anna, {"1.png": "new"}).json()["versions"] == [1, 2]
    assert edit(anna, {"1.png": "new"}, ref="cats@1").json()["version"] == 2


@pytest.mark.parametrize(
    ("files", "report", "path", "expected"),
    [
        ({"metadata.csv": CSV}, {}, "metadata.csv", "file_name,text,long\r\n0.png,new,long\r\n1.png,two,longer\r\n"),
        (
            {"metadata.csv": CSV},
            {"column": "long"},
            "metadata.csv",
            'file_name,text,long\r\n0.png,"a, b",new\r\n1.png,two,longer\r\n',
        ),
        ({"0.caption": b"old"}, {}, "0.caption", "new"),
        ({}, {}, "0.txt", "new"),
        (
            {"metadata.jsonl": metadata([{"file_name": "1.png", "text": "one", "mask": "m"}])},
            {},
            "metadata.jsonl",
            '{"file_name": "1.png", "text": "one", "mask": "m"}\n{"file_name": "0.png", "text": "new"}\n',
        ),
    ],
)
def test_captions_are_written_where_the_dataset_has_them(
    anna: APIClient, links: str, files: Files, report: dict[str, Any], path: str, expected: str
) -> None:
    upload(anna, links, "datasets", "cats", {"0.png": png(8, 8), "1.png": png(8, 8, 1), **files})
    assert edit(anna, {"0.png": "new"}, **report).status_code == 201
    assert content(2)[path].decode() == expected


def test_captions_of_a_dataset_in_the_hub_s_layout_are_edited_in_place(anna: APIClient, links: str) -> None:
    files = {
        "train/metadata.csv": b"file_name,text\n0.png,old\n",
        "train/0.png": png(8, 8),
        "train/1.png": png(8, 8, 1),
    }
    upload(anna, links, "datasets", "cats", files)
    assert edit(anna, {"train/0.png": "new", "train/1.png": "more"}).status_code == 201
    assert content(2)["train/metadata.csv"] == b"file_name,text\r\n0.png,new\r\n1.png,more\r\n"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"captions": {"9.png": "x"}}, "captions.9.png"),
        ({"captions": {"metadata.jsonl": "x"}}, "captions.metadata.jsonl"),
        ({"captions": {}}, "captions"),
        ({"captions": {"0.png": 5}}, "captions.0.png"),
    ],
)
def test_a_caption_of_no_image_is_refused(anna: APIClient, links: str, body: Any, field: str) -> None:
    upload(anna, links, "datasets", "cats", images(1))
    answer = anna.post("/api/v1/datasets/cats/captions", body, format="json")
    assert (answer.status_code, [*answer.json()["fields"]]) == (400, [field])
    assert DatasetVersion.objects.count() == 1


def test_rows_have_no_captions(anna: APIClient, links: str) -> None:
    upload(anna, links, "datasets", "cats", {"rows.jsonl": b'{"text": "a"}\n'})
    assert "holds text" in edit(anna, {"rows.jsonl": "x"}).json()["message"]


def test_a_large_dataset_is_checked_later(anna: APIClient, links: str, environ: Environ) -> None:
    upload(anna, links, "datasets", "cats", images(2))
    environ(check_now_bytes=0)
    answer = edit(anna, {"1.png": "later"})
    assert (answer.status_code, answer.json()["state"]) == (202, "checking")
    versions_check()
    assert captions_of(anna, "cats@2")["1.png"] == "later"
    assert DatasetVersion.objects.get(version=2).details["source"] == {"captions_of": "cats@1"}


@pytest.fixture
def sampled(world: World, user: APIClient, host: Host) -> Agent:
    """A running job with two images, a comparison sheet and a trace."""
    user.post("/api/v1/jobs", world.request, format="json")
    agent = host.claim()
    agent.start()
    for number, (name, label) in enumerate(
        [("0.png", "a"), ("1.png", "b"), ("comparison.png", "comparison"), ("trace.json", ""), ("steps/0.png", "a")]
    ):
        file = agent.store(f"samples/{name}", png(8, 8, number))
        details = {"label": label, "prompt": f"a dog, {number}"}
        details |= {"denoising_step": 5} if "steps" in name else {}
        report = {"kind": "sample", "step": 1, "path": file["path"], "files": [file], "details": details}
        assert agent.post("artifacts", report).status_code in (200, 201)
    user.post("/api/v1/datasets", {"name": "cats"}, format="json")
    return agent


def pick(client: APIClient, job: str, name: str = "cats", extend: bool = False, **more: Any) -> Any:
    body = {"picks": [{"job": job, **more}], "extend": extend}
    return client.post(f"/api/v1/datasets/{name}/samples", body, format="json")


def test_images_that_a_job_made_become_a_dataset_with_their_prompts(user: APIClient, sampled: Agent) -> None:
    answer = pick(user, sampled.job[:8])
    assert answer.status_code == 201, answer.content
    short = sampled.job[:8]
    assert captions_of(user, "cats") == {f"{short}-0.png": "a dog, 0", f"{short}-1.png": "a dog, 1"}
    assert answer.json()["details"]["source"] == {"samples_of": [sampled.job]}
    Artifact.objects.all().delete()
    assert content(1)[f"{short}-1.png"] == png(8, 8, 1)


def test_single_images_are_picked_and_renamed(user: APIClient, sampled: Agent) -> None:
    path = "samples/comparison.png"
    assert pick(user, sampled.job, paths=[path], captions={path: "two dogs"}).status_code == 201
    assert [*captions_of(user, "cats").values()] == ["two dogs"]


def test_picked_images_extend_the_latest_version(user: APIClient, sampled: Agent, links: str) -> None:
    upload(user, links, "datasets", "cats", images(1))
    answer = pick(user, sampled.job, extend=True, paths=["samples/1.png"])
    assert answer.status_code == 201, answer.content
    assert captions_of(user, "cats@2") == {"0.png": "image 0.png", f"{sampled.job[:8]}-1.png": "a dog, 1"}
    rows = [json.loads(line) for line in content(2)["metadata.jsonl"].decode().splitlines()]
    assert [row["text"] for row in rows] == ["image 0.png", "a dog, 1"]


@pytest.mark.parametrize("paths", [["samples/trace.json"], ["samples/none.png"], ["../secret.png"]])
def test_what_is_no_image_of_the_job_is_refused(user: APIClient, sampled: Agent, paths: list[str]) -> None:
    answer = pick(user, sampled.job, paths=paths)
    assert (answer.status_code, [*answer.json()["fields"]]) == (400, ["picks.0"])


def test_images_of_another_project_are_not_there(sampled: Agent, stranger: APIClient) -> None:
    stranger.post("/api/v1/datasets", {"name": "cats"}, format="json")
    assert pick(stranger, sampled.job).status_code == 404
