"""What the door lets in: file lists, stored bytes, images, captions, weights."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from rest_framework.test import APIClient

from api.catalog.checking.decode import image_size
from api.catalog.models import DatasetVersion, PretrainedModelVersion, Upload
from api.storage import storage_app
from tests.api.actors import Files, base_model, file_list, images, metadata, person, png, safetensors, send, upload
from tests.storage.hostile import HOSTILE_KEYS
from tests.storage.server import serving

pytestmark = pytest.mark.django_db
UNSENDABLE = ("\ud800", "a\0b")
"""No body of ours may hold these."""


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


@pytest.fixture
def anna() -> APIClient:
    client = person()
    client.post("/api/v1/datasets", {"name": "cats"}, format="json")
    client.post("/api/v1/models", {"name": "tiny"}, format="json")
    return client


def announce(client: APIClient, files: Any) -> Any:
    return client.post("/api/v1/datasets/cats/uploads", {"files": files}, format="json")


def refused(answer: Any, *words: str) -> None:
    """400 in the one shape, and the message has these words."""
    body = answer.json()
    assert answer.status_code == 400, body
    assert body.keys() == {"code", "message", "hint", "fields"}
    for word in words:
        assert word in body["message"] + json.dumps(body["fields"], ensure_ascii=False), body


@pytest.mark.parametrize("path", [key for key in HOSTILE_KEYS if key not in UNSENDABLE])
def test_a_hostile_path_is_refused_and_named(anna: APIClient, path: str) -> None:
    files = [*file_list({"a.png": b"x"}), {"path": path, "size": 1, "sha256": "0" * 64}]
    answer = announce(anna, files)
    refused(answer, "files.1.path")
    assert not Upload.objects.exists()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([], ["files"]),
        ({}, ["files"]),
        (None, ["files"]),
        (["a.png"], ["files"]),
        ([{"path": "a.png", "size": 1}], ["files.0", "sha256"]),
        ([{"path": 5, "size": 1, "sha256": "0" * 64}], ["files.0.path"]),
        ([{"path": "a", "size": -1, "sha256": "0" * 64}], ["files.0.size"]),
        ([{"path": "a", "size": True, "sha256": "0" * 64}], ["files.0.size"]),
        ([{"path": "a", "size": "1", "sha256": "0" * 64}], ["files.0.size"]),
        ([{"path": "a", "size": 2**62, "sha256": "0" * 64}], ["files.0.size"]),
        ([{"path": "a", "size": 1, "sha256": "0" * 63 + "G"}], ["files.0.sha256"]),
        ([{"path": "a", "size": 1, "sha256": "0" * 64}] * 2, ["'a'", "twice"]),
        ([{"path": p, "size": 1, "sha256": "0" * 64} for p in ("a/b/c", "a-", "a")], ["'a'", "folder of 'a/b/c'"]),
    ],
)
def test_a_file_list_that_is_none_says_where(anna: APIClient, files: Any, words: list[str]) -> None:
    refused(announce(anna, files), *words)


def test_a_file_that_was_not_sent_is_named(anna: APIClient) -> None:
    created = announce(anna, file_list(images())).json()
    answer = anna.post("/api/v1/datasets/cats/versions", {"upload": created["upload"]}, format="json")
    refused(answer, "0.png was not sent")
    assert answer.json()["code"] == "file_missing"
    assert not DatasetVersion.objects.exists()


def test_another_content_than_announced_is_refused_at_the_link(anna: APIClient, links: str) -> None:
    files = images()
    created = announce(anna, file_list(files)).json()
    with pytest.raises(httpx.HTTPStatusError, match="400 Bad Request"):
        send(created, links, {**files, "0.png": files["0.png"][:-1] + b"!"})


def test_odd_names_survive(anna: APIClient, links: str) -> None:
    name = "ordner/space and ünïcode 日本 🐕.png"
    files = {name: png(), "metadata.jsonl": metadata([{"file_name": name, "text": "ein Hund 🐕"}])}
    created = upload(anna, links, "datasets", "cats", files)
    assert created.status_code == 201, created.json()
    assert [file["path"] for file in created.json()["files"]] == sorted(files)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"readme.md": b"no image"}, ["at least one image"]),
        ({"a.png": b"<html>"}, ["a.png is not a PNG"]),
        ({"a.gif": b"GIF89a" + struct.pack("<HH", 7, 5)}, ["a.gif", "decoded"]),
        ({"a.svg": b"<svg/>", "b.png": png()}, ["a.svg", "vector"]),
        ({"a.jpg": b"\xff\xd8\xff\xe0\x00\x10JFIF"}, ["a.jpg ends in the middle"]),
        ({"a.png": png()[:20]}, ["a.png ends in the middle"]),
        ({"a.png": png(64, 64)[:60]}, ["a.png cannot be decoded"]),
        ({"a.png": png(1, 40)}, ["a.png is 1 x 40", "at most 16 times"]),
        ({"a.png": b""}, ["a.png has zero bytes"]),
        ({"a.png": png()[:16] + struct.pack(">II", 40000, 40000) + b"\0" * 9}, ["40000 x 40000", "at most"]),
        ({"a.png": png()[:16] + struct.pack(">II", 0, 5) + b"\0" * 9}, ["0 x 5"]),
    ],
)
def test_an_image_that_is_none_is_refused_and_named(
    anna: APIClient, links: str, files: Files, words: list[str]
) -> None:
    refused(upload(anna, links, "datasets", "cats", files), *words)
    assert not DatasetVersion.objects.exists()


def test_an_image_is_known_by_its_content(anna: APIClient, links: str) -> None:
    assert upload(anna, links, "datasets", "cats", {"png_named.jpg": png()}).status_code == 201


def test_each_faulty_line_of_the_metadata_is_named(anna: APIClient, links: str) -> None:
    rows: list[Any] = [
        {"file_name": "a.png", "text": "fine"},
        {"file_name": "missing.png", "text": "x"},
        {"file_name": "../../../../etc/passwd", "text": "x"},
        {"file_name": "/etc/passwd", "text": "x"},
        {"file_name": "a.png", "text": "second"},
        {"text": "no name"},
        ["list"],
    ]
    raw = metadata(rows) + b"\n{broken\n"
    answer = upload(anna, links, "datasets", "cats", {"a.png": png(), "metadata.jsonl": raw})
    refused(answer, "line 2: 'missing.png' is not among the files")
    faults = answer.json()["fields"]["files"]
    assert [fault.split(":")[0] for fault in faults] == [f"metadata.jsonl line {n}" for n in (2, 3, 4, 5, 6, 7, 9)]
    assert "in line 1" in faults[3]


@pytest.mark.parametrize(
    ("raw", "word"),
    [
        ('{"file_name": "a.png", "text": "ü"}'.encode("utf-16"), "UTF-16"),
        (b'{"file_name": "a.png", "text": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_metadata_that_cannot_be_read_says_why(anna: APIClient, links: str, raw: bytes, word: str) -> None:
    refused(upload(anna, links, "datasets", "cats", {"a.png": png(), "metadata.jsonl": raw}), "metadata.jsonl", word)


def test_images_without_a_caption_are_named_in_a_warning(anna: APIClient, links: str) -> None:
    files = {"a.png": png(), "b.png": png(seed=1), "a.txt": b"a cat", "orphan.txt": b"nobody"}
    created = upload(anna, links, "datasets", "cats", files).json()
    assert (created["details"]["num_images"], created["details"]["num_captions"]) == (2, 1)
    assert created["warnings"] == ["a caption without an image: orphan.txt", "no caption beside it: b.png"]
    assert [(notice["file"], notice["code"]) for notice in created["notices"]] == [
        ("orphan.txt", "a_caption_without_an_image"),
        ("b.png", "no_caption_beside_it"),
    ]


def test_a_csv_of_captions_is_read_too(anna: APIClient, links: str) -> None:
    good = upload(
        anna, links, "datasets", "cats", {"a.png": png(), "metadata.csv": b'file_name,text\na.png,"a, cat"\n'}
    )
    assert good.json()["details"]["num_captions"] == 1
    bad = upload(anna, links, "datasets", "cats", {"a.png": png(), "metadata.csv": b"file_name,text\nb.png,x\n"})
    refused(bad, "metadata.csv line 2", "b.png")


def test_only_one_metadata_file_at_the_top_is_read_and_others_are_named(anna: APIClient, links: str) -> None:
    rows = metadata([{"file_name": "a.png", "text": "a cat"}])
    files = {"a.png": png(), "metadata.jsonl": rows, "metadata.csv": b"junk", "sub/metadata.jsonl": b"junk"}
    created = upload(anna, links, "datasets", "cats", files).json()
    assert created["details"]["num_captions"] == 1
    message = "not read, since another metadata file is: metadata.csv, sub/metadata.jsonl"
    assert created["warnings"] == [message]


def test_a_column_of_another_name_is_left_to_the_trainer(anna: APIClient, links: str) -> None:
    rows = metadata([{"photo": "a.png", "text": "a cat"}])
    created = upload(anna, links, "datasets", "cats", {"a.png": png(), "metadata.jsonl": rows}).json()
    assert created["warnings"] == ["no column of images: metadata.jsonl"]
    message = "metadata.jsonl has no column image or file_name; jobs must set image_column"
    assert [notice["message"] for notice in created["notices"]] == [message]


@pytest.mark.parametrize(
    ("head", "size"),
    [
        (b"BM" + bytes(16) + struct.pack("<ii", 7, -5), (7, 5)),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 7, 5), (7, 5)),
        (b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + struct.pack("<I", 6 | 4 << 14), (7, 5)),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\6\0\0\4\0\0", (7, 5)),
        (b"II*\0" + struct.pack("<IHHHIIHHII", 8, 2, 256, 3, 1, 7, 257, 4, 1, 5), (7, 5)),
        (b"\xff\xd8\xff\xe0\0\4ab\xff\xff\xc0\0\x11\x08" + struct.pack(">HH", 5, 7), (7, 5)),
    ],
)
def test_the_size_of_every_kind_is_read_from_its_header(head: bytes, size: tuple[int, int]) -> None:
    assert image_size(head, "a", is_complete=True) == size


@pytest.mark.parametrize("name", ["unet/model.bin", "model.ckpt", "a.pt", "a.PTH", "x.pkl", "unet/modeling.py"])
def test_pickles_and_code_are_refused_and_named(anna: APIClient, links: str, name: str) -> None:
    refused(upload(anna, links, "models", "tiny", {**base_model(), name: b"\x80\x04."}), name)
    assert not PretrainedModelVersion.objects.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_index.json": None}, ["model_index.json"]),
        ({"model_index.json": b"{"}, ["model_index.json is not JSON"]),
        ({"model_index.json": b"[]"}, ["model_index.json", "list"]),
        (
            {"model_index.json": b'{"_class_name": "KandinskyPipeline"}'},
            ["StableDiffusionPipeline", "KandinskyPipeline"],
        ),
        ({"model_index.json": b'{"_class_name": ["x"]}'}, ["StableDiffusionPipeline"]),
        ({"model_index.json": b'{"_class_name": "StableDiffusionPipeline"}'}, ["unet"]),
        ({"unet/diffusion_pytorch_model.safetensors": None}, ["unet"]),
        ({"unet/diffusion_pytorch_model.safetensors": b""}, ["unet/", "zero bytes"]),
        ({"unet/diffusion_pytorch_model.safetensors": struct.pack("<Q", 2**62) + b"{}"}, ["header", str(2**62)]),
        ({"unet/diffusion_pytorch_model.safetensors": struct.pack("<Q", 2) + b"{]"}, ["not JSON"]),
        ({"unet/diffusion_pytorch_model.safetensors": safetensors()[:-1]}, ["need 16 bytes", "holds 15"]),
        ({"unet/diffusion_pytorch_model.safetensors": safetensors(extra=b"x")}, ["need 16 bytes", "holds 17"]),
        ({"unet/diffusion_pytorch_model.safetensors": struct.pack("<Q", 13) + b'{"w": {"a":1}}'[:13]}, ["header"]),
        ({"scheduler/scheduler_config.json": None}, ["scheduler"]),
        ({"text_encoder/config.json": b"[]"}, ["text_encoder/config.json", "expected a JSON object"]),
    ],
)
def test_a_base_model_that_is_none_is_refused_and_named(
    anna: APIClient, links: str, change: dict[str, bytes | None], words: list[str]
) -> None:
    files = {path: data for path, data in {**base_model(), **change}.items() if data is not None}
    refused(upload(anna, links, "models", "tiny", files), *words)
    assert not PretrainedModelVersion.objects.exists()


@pytest.mark.any_database
def test_a_model_made_by_diffusers_is_accepted_with_its_parts_that_nobody_opens(
    anna: APIClient, links: str, tiny_sd: Path
) -> None:
    files = {path.relative_to(tiny_sd).as_posix(): path.read_bytes() for path in tiny_sd.rglob("*") if path.is_file()}
    index = json.loads(files["model_index.json"])
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    created = upload(anna, links, "models", "tiny", {**files, "model_index.json": json.dumps(index).encode()})
    assert (created.status_code, created.json()["family"]) == (201, "sd1")
