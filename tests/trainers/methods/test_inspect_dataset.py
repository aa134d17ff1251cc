"""The job `inspect_dataset`: what training would see, and every file that it would drop or change."""

import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from tests.tiny_flux import build_tiny_flux
from tests.tiny_sd3 import build_tiny_sd3
from tests.trainers.job import SHA256, Job, image_make
from trainers.contract.params.inspect_dataset import InspectDatasetParams

Inspect = Callable[..., dict[str, Any]]


@pytest.fixture
def inspect(tmp_path: Path) -> Inspect:
    """Runs the job on a folder and returns its report."""

    def run(dataset: Path, *, model: Path | None = None, num_rows: int = 8, **params: Any) -> dict[str, Any]:
        job = Job(tmp_path / "job", tmp_path / "cache")
        job.inputs.mkdir(parents=True)
        (job.inputs / "dataset").symlink_to(dataset)
        roles = ["dataset"]
        if model:
            (job.inputs / "model").symlink_to(model)
            roles.append("model")
        spec = {
            "name": "look",
            "method": "inspect_dataset",
            "params": {"template_params": {"resolution": 64} | params, "num_rows": num_rows},
            "inputs": {role: {"name": role, "key": role, "sha256": SHA256} for role in roles},
        }
        (job.root / "spec.json").write_text(json.dumps(spec))
        assert job.run() == 0, job.events()
        report: dict[str, Any] = json.loads((job.out / "samples" / "report.json").read_bytes())
        paths = {sample.path for sample in job.of_kind("sample")}
        shown = {sample[kind] for sample in report["samples"] for kind in ("path", "mask") if kind in sample}
        assert paths == {*shown, "samples/report.json"}
        assert job.manifest["inspection"]["num_samples"] == len(report["samples"])
        report["out"] = job.out
        report["warnings"] = [warning.message for warning in job.of_kind("warning")]
        return report

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "dataset"
    folder.mkdir()
    for name, size in (("a", (96, 64)), ("b", (64, 96)), ("c", (64, 64))):
        image_make(folder / f"{name}.png", size, seed=1)
        (folder / f"{name}.txt").write_text(f"image {name}")
    return folder


def changes_by_file(report: dict[str, Any]) -> dict[str, list[str]]:
    return {file["file"]: file.get("changes") or [file["refused"]] for file in report["files"]}


def test_samples_come_in_the_order_of_the_training_with_their_texts(inspect: Inspect, folder: Path) -> None:
    report = inspect(folder, trigger_word="sks", center_crop=True, train_batch_size=2)
    assert report["refused"] == ""
    assert report["images"] == report["rows_per_epoch"] == 3
    assert report["steps_per_epoch"] == 2
    assert [(sample["step"], sample["position"]) for sample in report["samples"]] == [(1, 0), (1, 1), (2, 0)]
    assert sorted(sample["text"] for sample in report["samples"]) == [f"sks, image {name}" for name in "abc"]


def test_a_sample_is_the_very_pixels_that_are_cut(inspect: Inspect, folder: Path) -> None:
    report = inspect(folder, center_crop=True, image_interpolation_mode="nearest")
    (wide,) = [sample for sample in report["samples"] if sample["file"] == "a.png"]
    assert wide["crop"] == {"left": 16, "top": 0, "flip": False, "shape": [64, 64]}
    expected = np.asarray(Image.open(folder / "a.png"))[:, 16:80]
    assert np.array_equal(np.asarray(Image.open(report["out"] / wide["path"])), expected)


def test_buckets_are_counted(inspect: Inspect, folder: Path) -> None:
    assert inspect(folder, aspect_ratio_buckets=True)["shapes"] == {"80x48": 1, "48x80": 1, "64x64": 1}


def test_masks_are_shown(inspect: Inspect, folder: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 255)).save(folder / "c.png")
    report = inspect(folder, masked_loss="alpha")
    assert all(np.asarray(Image.open(report["out"] / sample["mask"])).min() == 255 for sample in report["samples"])


def test_every_change_of_a_file_is_named(inspect: Inspect, folder: Path) -> None:
    Image.new("RGBA", (64, 64), (0, 0, 0, 9)).save(folder / "a.png")
    Image.fromarray(np.linspace(0, 65535, 4096).reshape(64, 64).astype(np.uint16)).save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 30), "red").save(folder / "c.png", exif=exif)
    actual = changes_by_file(inspect(folder))
    assert actual["a.png"] == ["transparency composited over white"]
    assert actual["b.png"] == ["16 bits per channel scaled to 8"]
    assert actual["c.png"] == [
        "rotated by EXIF orientation 6",
        "enlarged from 30 x 64 to 64 x 137",
        "53% of its area is outside each crop of 64 x 64",
    ]


def test_refused_files_are_named_and_the_others_shown(inspect: Inspect, folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    report = inspect(folder)
    assert report["images"] == 2
    assert "b.png cannot be decoded" in report["refused"]
    assert {sample["file"] for sample in report["samples"]} == {"a.png", "c.png"}


def test_a_column_that_is_not_there_refuses_the_whole(inspect: Inspect, folder: Path) -> None:
    (folder / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "titel": "a"}))
    report = inspect(folder)
    assert report["refused"].startswith("caption_column='text' is not a column of metadata.jsonl")
    assert report["samples"] == []


def test_captions_that_the_base_model_cuts_are_named_with_what_is_lost(
    inspect: Inspect, folder: Path, tiny_sd: Path
) -> None:
    (folder / "b.txt").write_text("q " * 230)
    assert inspect(folder, model=tiny_sd)["captions_cut"] == ["b.png: 230 tokens, the last 5 are cut"]


@pytest.mark.parametrize(
    ("build", "params", "num_tokens"),
    [
        (build_tiny_flux, {}, 511),
        (build_tiny_flux, {"max_sequence_length": 128}, 127),
        (build_tiny_sd3, {}, 255),
        (partial(build_tiny_sd3, has_t5=False), {}, 75),
    ],
)
def test_captions_are_cut_where_the_families_of_t5_do(
    inspect: Inspect,
    folder: Path,
    tmp_path: Path,
    build: Callable[[Path], Path],
    params: dict[str, Any],
    num_tokens: int,
) -> None:
    (folder / "b.txt").write_text("q " * 600)
    report = inspect(folder, model=build(tmp_path / "base"), **params)
    (changes_by_file,) = report["captions_cut"]
    tokens, lost = map(int, re.findall(r"\d+", changes_by_file))
    assert changes_by_file.startswith("b.png: ") and tokens - lost == num_tokens


def test_images_without_the_alpha_that_masks_their_loss_are_named(inspect: Inspect, folder: Path) -> None:
    image = Image.open(folder / "a.png").convert("RGBA")
    image.putalpha(128)
    image.save(folder / "a.png")
    assert inspect(folder, masked_loss="alpha")["without_mask"] == ["b.png", "c.png"]


def test_the_number_of_samples_is_bounded(inspect: Inspect, folder: Path) -> None:
    assert len(inspect(folder, num_rows=2)["samples"]) == 2


@pytest.mark.parametrize(
    ("template", "wrong"),
    [({"resolution": 63}, "resolution"), ({"rank": 8}, "rank"), ({"keep_tokens": 1}, "caption_shuffle")],
)
def test_parameters_that_the_training_would_refuse_are_refused(template: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        InspectDatasetParams(template_params=template)


def test_images_without_captions_need_a_trigger_word_and_the_report_says_so(inspect: Inspect, folder: Path) -> None:
    for name in "abc":
        (folder / f"{name}.txt").unlink()
    report = inspect(folder)
    assert report["refused"].startswith("3 of 3 images have no caption")
    assert report["refused"].endswith("a.png, b.png, c.png; write them, or give a trigger_word")


def test_with_a_trigger_word_images_without_captions_are_shown_as_they_train(inspect: Inspect, folder: Path) -> None:
    for name in "abc":
        (folder / f"{name}.txt").unlink()
    report = inspect(folder, trigger_word="sks")
    assert (report["refused"], report["images"]) == ("", 3)
    assert {sample["text"] for sample in report["samples"]} == {"sks"}
    assert report["warnings"] == ["no image has a caption; each is trained with the trigger word 'sks' alone"]


def test_repeats_of_folders_are_shown(inspect: Inspect, folder: Path) -> None:
    (folder / "10_dog").mkdir()
    for suffix in ("png", "txt"):
        (folder / f"a.{suffix}").rename(folder / "10_dog" / f"a.{suffix}")
    report = inspect(folder)
    assert (report["images"], report["rows_per_epoch"], report["repeats"]) == (3, 12, {"1x": 2, "10x": 1})


@pytest.mark.acceptance
class TestSharedData:
    @pytest.mark.parametrize(
        ("name", "count"),
        [("pd_photos", 12), ("noto_emoji", 64), ("dreambooth/dog", 5), ("dreambooth/backpack_dog", 5)],
    )
    def test_every_set_of_images_is_whole(self, name: str, count: int, inspect: Inspect, shared_data: Path) -> None:
        report = inspect(shared_data / "images" / name, aspect_ratio_buckets=True)
        assert report["refused"] == ""
        assert report["images"] == count
        assert (len(report["shapes"]) > 1) == (name == "pd_photos")
        if name == "noto_emoji":
            assert set(map(str, changes_by_file(report).values())) == {"['transparency composited over white']"}

    def test_hostile_images_are_named_with_their_reasons(self, inspect: Inspect, shared_data: Path) -> None:
        report = inspect(shared_data / "hostile" / "images", trigger_word="sks")
        actual = changes_by_file(report)
        for name, reason in REFUSED.items():
            assert reason in actual[name][0], name
        for name, change in CHANGED.items():
            assert change in actual[name], name
        assert actual.keys() == REFUSED.keys() | CHANGED.keys()
        assert report["images"] == 16 - len(REFUSED)
        assert {sample["file"] for sample in report["samples"]} <= set(names(shared_data / "hostile" / "images"))

    def test_bad_metadata_is_named_row_by_row(self, inspect: Inspect, shared_data: Path) -> None:
        report = inspect(shared_data / "hostile" / "metadata_bad")
        assert [fault.split(":")[0] for fault in report["faults"]] == [
            *(f"metadata.jsonl line {line}" for line in (3, 4, 6, 7, 8, 9)),
            "1 of 3 images are not in the dataset",
        ]
        assert report["images"] == 2
        assert changes_by_file(report)["a.jpg"][-1] == "same content as a.jpg (metadata.jsonl line 1)"

    def test_bad_captions_are_all_named(self, inspect: Inspect, shared_data: Path) -> None:
        report = inspect(shared_data / "hostile" / "captions")
        assert "latin1_caption.txt is not UTF-8" in report["faults"][0]
        assert report["faults"][1].endswith("latin1_caption.jpg, missing_caption.jpg; write them")
        assert report["images"] == 1

    def test_parquet_is_shown(self, inspect: Inspect, shared_data: Path) -> None:
        report = inspect(shared_data / "hostile" / "images_parquet")
        assert report["images"] == len(report["samples"]) == 5


REFUSED = {
    "thin_1x4000.png": "at most 16 times",
    "bomb_40000x40000.png": "pixels",
    "header_lie_100000.png": "pixels",
    "text_named.png": "cannot be read as an image",
    "truncated_header.jpg": "cannot be",
}
CHANGED = {
    "animated.gif": "only the first of 4 frames is used",
    "png_named.jpg": "named as JPEG, but contains PNG",
    "exif_rotated.jpg": "rotated by EXIF orientation 6",
    "rgba.png": "transparency composited over white",
    "gray16.png": "16 bits per channel scaled to 8",
    "gray.png": "converted from L to RGB",
    "one_bit.png": "converted from 1 to RGB",
    "bmp.bmp": "enlarged from 32 x 32 to 64 x 64",
    "ok_control.jpg": "same content as duplicate_of_control.jpg",
}


def names(folder: Path) -> Sequence[str]:
    return [path.name for path in folder.iterdir()]
