"""Every file of ../shared/data/hostile gets the answer that its README's table asks for."""

import json
import math
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rest_framework.test import APIClient

from api.catalog.models import DatasetVersion, PretrainedModelVersion, Upload
from api.catalog.versions import check_run
from api.storage import storage, storage_app
from tests.api.actors import Files, base_model, file_list, person, send
from tests.storage.server import serving

pytestmark = [pytest.mark.django_db, pytest.mark.acceptance, pytest.mark.any_database]
PEAK_BYTES = 256 << 20
MARKER = "PICKLE_EXECUTED_MARKER"
MODULE = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"


class Row(NamedTuple):
    path: str
    """Below hostile/; a folder is uploaded whole."""
    words: tuple[str, ...]
    """What the refusal, or the notices of what was accepted, must say."""
    accepted: dict[str, Any] | None = None
    """`details` of what is accepted; None = refused."""


def images(count: int) -> dict[str, Any]:
    return {"kind": "images", "num_images": count}


def rows(count: int, **more: Any) -> dict[str, Any]:
    return {"kind": "text", "num_rows": count, **more}


TABLE = (
    Row("images/ok_control.jpg", (), images(1)),
    Row("images/truncated_header.jpg", ("truncated_header.jpg", "not a whole image")),
    Row("images/text_named.png", ("text_named.png is not a PNG",)),
    Row("images/png_named.jpg", ("png_named.jpg is a PNG",), images(1)),
    Row("images/animated.gif", ("animated.gif has 4 frames; the first is used",), images(1)),
    Row("images/gray16.png", (), images(1)),
    Row("images/exif_rotated.jpg", (), images(1)),
    Row("images/rgba.png", (), images(1)),
    Row("images/gray.png", (), images(1)),
    Row("images/one_bit.png", (), images(1)),
    Row("images/thin_1x4000.png", ("thin_1x4000.png is 1 x 4000", "at most 16 times")),
    Row("images/bmp.bmp", (), images(1)),
    Row("images/svg_script.svg", ("svg_script.svg", "vector")),
    Row("images/space and ünïcode 日本 🐕.jpg", ("space and ünïcode 日本 🐕.jpg",), images(1)),
    Row("images/bomb_40000x40000.png", ("bomb_40000x40000.png", "at most 64000000")),
    Row("images/header_lie_100000.png", ("header_lie_100000.png", "100000 x 100000")),
    Row("captions", ("latin1_caption.txt is not UTF-8: byte 6",)),
    Row("metadata_bad", tuple(f"metadata.jsonl line {n}" for n in range(2, 10))),
    Row("archives/ok.zip", (), {**images(1), "num_captions": 1}),
    Row("archives/symlink.zip", ("symlink.zip", "link.jpg", "symbolic link")),
    Row("archives/zip_bomb_1GB.zip", ("zip_bomb_1GB.zip", "at most 100 times")),
    Row("archives/size_lie.zip", ("liar.jpg", "100 bytes")),
    Row("archives/truncated.zip", ("truncated.zip is not a complete zip",)),
    Row("archives/duplicates_and_junk.zip", ("'a.jpg' after 'a.jpg'", "'A.JPG' after 'a.jpg'"), images(1)),
    Row("archives/encrypted_flag.zip", ("a.jpg", "password-protected")),
    Row("text/ok.jsonl", (), rows(20)),
    Row("text/bad_rows.jsonl", tuple(f"line {n}:" for n in (5, 9, 10, 12, 13, 15)), rows(13, num_skipped=6)),
    Row("text/no_final_newline.jsonl", (), rows(5)),
    Row("text/utf16.jsonl", ("utf16.jsonl is UTF-16; expected UTF-8",)),
    Row("text/array_not_lines.jsonl", ("this is a JSON array; expected one object per line",)),
    Row("text/deep_nesting.json", ("deep_nesting.json", "at most 32 levels")),
    Row("text/chat_bad_roles.jsonl", tuple(f"line {n}:" for n in (1, 2, 3, 4)), rows(1, chat=True)),
    Row("text/long_row.jsonl", ("1000000 characters", "cut or pack"), rows(1)),
    Row("text/unicode_columns.csv", ("input_template",), rows(5)),
    Row("text/ragged.csv", ("ragged.csv line 3", "ragged.csv line 4")),
    Row("text/formula.csv", (), rows(1)),
    Row("text/ok.parquet", (), rows(50)),
    Row("text/nested.parquet", (), rows(10, chat=True)),
    Row("images_parquet/dog5.parquet", ("dog5.parquet",), {**images(5), "num_captions": 5}),
    Row("weights/lora_ok.safetensors", ("a LoRA of 1 module",), {"family": "sd1"}),
    Row("weights/header_len_huge.safetensors", ("header_len_huge.safetensors", str(2**62))),
    Row("weights/lora_nan.safetensors", ("lora_nan.safetensors", "lora_A.weight", "not finite")),
    Row("weights/lora_wrong_base.safetensors", ("lora_wrong_base.safetensors", "[777, 777]", "[320, 320]")),
    Row("weights/pickle_payload.bin", ("pickle_payload.bin", "pickled")),
)


@pytest.fixture(scope="module")
def links() -> Iterator[str]:
    with serving(lambda _: storage_app()) as base:
        yield base


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Most memory of each check; the folders of all checks lie in `tmp_path`."""
    result: list[int] = []
    real = check_run._run

    def measured(*order: Any) -> dict[str, Any]:
        report = real(*order)
        result.append(report["peak_bytes"])
        return report

    monkeypatch.setattr(check_run, "_run", measured)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return result


@pytest.mark.parametrize("row", TABLE, ids=[row.path for row in TABLE])
def test_a_hostile_file_gets_the_answer_of_its_table(
    row: Row, links: str, shared_data: Path, peaks: list[int], tmp_path: Path
) -> None:
    for kind in ("datasets", "models"):
        storage().delete_prefix(f"{kind}/")
    value = shared_data / "hostile" / row.path
    paths = sorted(value.iterdir()) if value.is_dir() else [value]
    answer = answer_of(person(), links, row.path.split("/")[0], {path.name: path.read_bytes() for path in paths})
    body = answer.json()
    message = json.dumps(body, ensure_ascii=False)
    for word in row.words:
        assert word in message, body
    if row.accepted is None:
        assert (answer.status_code, sorted(body)) == (400, ["code", "fields", "hint", "message"])
        assert not [*storage().list("datasets/"), *storage().list("models/")]
        assert not DatasetVersion.objects.exists() | PretrainedModelVersion.objects.exists() | Upload.objects.exists()
    else:
        assert answer.status_code == 201, body
        assert {**body["details"], "family": body.get("family")}.items() >= row.accepted.items()
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir()), "nothing of a check stays"
    assert not Path(MARKER).exists()
    assert peaks
    assert max(peaks) < PEAK_BYTES


def test_the_table_has_every_file(shared_data: Path) -> None:
    """Some by their folder; the copy of the control is sent by the next test."""
    folder = shared_data / "hostile"
    existing = {row.path for row in TABLE} | {"README.md", "images/duplicate_of_control.jpg"}
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not {path for path in there if not {path, path.split("/")[0]} & existing}


def test_the_captions_are_named_one_by_one(links: str, shared_data: Path) -> None:
    folder = shared_data / "hostile"
    files = {path.name: path.read_bytes() for path in (folder / "captions").iterdir() if "latin1" not in path.name}
    for name in ("ok_control.jpg", "duplicate_of_control.jpg"):
        files[name] = (folder / "images" / name).read_bytes()
    created = answer_of(person(), links, "captions", files).json()
    codes = {(notice["file"], notice["code"]) for notice in created["notices"]}
    assert codes >= {
        ("missing_caption.jpg", "no_caption_beside_it"),
        ("orphan_caption.txt", "a_caption_without_an_image"),
        ("long_caption.txt", "long_caption"),
        ("ok_control.jpg", "the_same_image_twice"),
    }
    assert "characters" in next(n["message"] for n in created["notices"] if n["code"] == "long_caption")


def answer_of(client: APIClient, links: str, folder: str, files: Files) -> Any:
    kind = "models" if folder == "weights" else "datasets"
    if folder == "weights":
        files = {**fitting_base(), **{f"unet/{name}": data for name, data in files.items()}}
    client.post(f"/api/v1/{kind}", {"name": "odd"}, format="json")
    body = {"files": file_list(files), "unpack": folder == "archives"}
    announced = client.post(f"/api/v1/{kind}/odd/uploads", body, format="json").json()
    send(announced, links, files)
    return client.post(f"/api/v1/{kind}/odd/versions", {"upload": announced["upload"]}, format="json")


def fitting_base() -> Files:
    """A base model whose UNet has the module that the LoRA files are for, of the width of SD 1.x."""
    shape = (320, 320)
    size = 2 * math.prod(shape)
    header = json.dumps({MODULE: {"dtype": "F16", "shape": shape, "data_offsets": [0, size]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(size)
    return {**base_model(), "unet/diffusion_pytorch_model.safetensors": weights}
