"""Splits of a dataset: kept by the check, chosen by a parameter, never pooled."""

import hashlib
import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet
from pydantic import ValidationError

from api.catalog.checking.dataset import check
from api.catalog.checking.work import Work
from formats.datasets.splits import split_chosen, split_evaluated, splits_of
from tests.trainers.text.job import TextJob, workspace
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.params.sample_text import EvaluateTextParams
from trainers.contract.spec import JobSpec
from trainers.image.data.image_rows import Columns
from trainers.image.data.images import images_read
from trainers.methods.evaluate_text import rows_of
from trainers.text.data.rows import rows_read

LAYOUTS = [
    (["train.jsonl", "test.jsonl"], {"train": 1, "test": 1}),
    (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], {"train": 2}),
    (["main/train-00000-of-00001.parquet", "main/test-00000-of-00001.parquet"], {"train": 1, "test": 1}),
    (["train/a.csv", "val/a.csv", "dev.csv"], {"train": 1, "validation": 2}),
    (["wiki/valid.txt", "wiki/test.txt"], {"validation": 1, "test": 1}),
    (["rows.jsonl", "dev.jsonl"], {"train": 1, "validation": 1}),
    (["sst_train.csv", "sst_test.csv"], {"train": 1, "test": 1}),
    (["train_sft-00000-of-00001.parquet", "test_sft-00000-of-00001.parquet"], {"train_sft": 1, "test_sft": 1}),
    (["split=hard/a.jsonl", "train/a.jsonl"], {"train": 1, "hard": 1}),
    (["Test.JSONL", "Train.JSONL"], {"train": 1, "test": 1}),
    (["rows.jsonl", "more.jsonl"], {}),
    (["crash-test.csv"], {}),
    (["latest.json", "contest.json", "devices.json"], {}),
]


@pytest.mark.parametrize(("paths", "counts"), LAYOUTS)
def test_splits_are_read_from_names(paths: list[str], counts: dict[str, int]) -> None:
    assert {split: len(files) for split, files in splits_of(paths).items()} == counts


def test_image_file_names_do_not_define_splits() -> None:
    assert splits_of(["test.png", "train-1.png"], by_folder_only=True) == {}
    assert [*splits_of(["test/a.png", "train/a.png"], by_folder_only=True)] == ["train", "test"]


def test_a_missing_split_is_refused_with_the_available_ones() -> None:
    assert split_chosen(["train", "validation"], "dev") == "validation"
    assert split_chosen([], "train") == ""
    with pytest.raises(ValueError, match="split='test' is not in the dataset, which has train, validation"):
        split_chosen(["train", "validation"], "test")
    with pytest.raises(ValueError, match="whose files name no splits; leave split out"):
        split_chosen([], "test")


def test_an_evaluation_prefers_splits_not_used_for_training() -> None:
    assert split_evaluated(["train", "validation", "test"], "") == "test"
    assert split_evaluated(["train", "validation"], "") == "validation"
    assert split_evaluated(["train"], "") == "train"
    assert split_evaluated([], "") == ""
    assert split_evaluated(["train", "test"], "train") == "train"


def folder_of(folder: Path, files: dict[str, bytes]) -> Work:
    for name, content in files.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    (folder / "out").mkdir()
    listed = [
        {"path": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in sorted(files.items())
    ]
    return Work(folder / "in", folder / "out", listed)


def rows(*names: str) -> bytes:
    return b"".join(json.dumps({"question": name, "answer": "x"}).encode() + b"\n" for name in names)


def masked(**params: Any) -> MaskedTextParams:
    return MaskedTextParams(adaptor_name="a", **params)


def test_rows_are_counted_by_split_at_upload_and_trained_on_by_split(tmp_path: Path) -> None:
    work = folder_of(tmp_path, {"train.jsonl": rows("a", "b", "c"), "test.jsonl": rows("d")})
    details = check(work)
    assert (details["num_rows"], details["splits"]) == (4, {"train": 3, "test": 1})
    assert [notice["message"] for notice in work.notices.listed] == [
        "the files are splits: train with 3 rows, test with 1 rows; a job reads the one named by its parameter split"
    ]

    def questions(split: str) -> list[str]:
        return [row.columns["question"] for row in rows_read(tmp_path / "in", masked(split=split).split_of)]

    assert (questions("train"), questions("test")) == (["a", "b", "c"], ["d"])
    with pytest.raises(TrainerError, match="which has train, test") as refusal:
        questions("validation")
    assert refusal.value.reason.code == ReasonCode.BAD_PARAMETERS


def test_a_dataset_without_splits_is_read_completely(tmp_path: Path) -> None:
    work = folder_of(tmp_path, {"a.jsonl": rows("a"), "b.jsonl": rows("b")})
    assert "splits" not in check(work)
    assert len(rows_read(tmp_path / "in", masked().split_of)) == 2
    assert len(rows_read(tmp_path / "in", EvaluateTextParams().split_of)) == 2


def spec(method: str, splits: dict[str, int], **params: Any) -> JobSpec:
    ref = {"name": "rows@1", "key": "k", "sha256": "0" * 64}
    inputs = {"dataset": {**ref, "details": {"kind": "text", "splits": [*splits]}}, "model": {**ref, "name": "m@1"}}
    return JobSpec.model_validate({"name": "x", "method": method, "params": params, "inputs": inputs})


def test_a_split_missing_from_the_record_is_refused_at_submit() -> None:
    splits = {"train": 3, "test": 1}
    assert spec("masked_text", splits, adaptor_name="a", split="test")
    assert spec("evaluate_text", {"validation": 1})
    with pytest.raises(ValidationError, match="rows@1: split='dev' is not in the dataset, which has train, test"):
        spec("masked_text", splits, adaptor_name="a", split="dev")
    with pytest.raises(ValidationError, match="which has test; choose one"):
        spec("masked_text", {"test": 1}, adaptor_name="a")
    with pytest.raises(ValidationError, match="which has train, test"):
        spec("evaluate_text", splits, split="hard")


def test_an_evaluation_reads_the_test_split(tmp_path: Path) -> None:
    work = workspace(tmp_path, "evaluate_text", tmp_path, rows=[{"question": "old", "answer": "x"}])
    (work.dataset / "rows.jsonl").rename(work.dataset / "train.jsonl")
    (work.dataset / "test.jsonl").write_bytes(rows("new", "newer"))
    assert [row.turns[0].text for row in rows_of(work, EvaluateTextParams())] == ["new", "newer"]
    assert [row.turns[0].text for row in rows_of(work, EvaluateTextParams(split="train"))] == ["old"]


def test_a_training_records_the_split_it_read(tmp_path: Path, tiny_text: Callable[[str], Path]) -> None:
    job = TextJob(tmp_path / "job", tmp_path / "cache")
    job.dataset.mkdir(parents=True)
    (job.inputs / "model").symlink_to(tiny_text("llada"))
    (job.dataset / "train.jsonl").write_bytes(rows("a", "b", "c"))
    (job.dataset / "test.jsonl").write_bytes(rows("d"))
    job.spec(validation_split=0.0, train_steps=1, split="test").finished()
    dataset = job.manifest["dataset"]
    assert (dataset["rows"], dataset["split"], dataset["splits"]) == (1, "test", {"train": 3, "test": 1})


def image(seed: int, kind: str = "PNG") -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (seed, 10, 10)).save(buffer, kind)
    return buffer.getvalue()


def images(split: str = "train") -> Callable[..., Any]:
    return ImageLoraParams(adaptor_name="a", split=split).split_of


def test_images_in_folders_of_splits_are_not_pooled(tmp_path: Path) -> None:
    names = ("train/a", "train/b", "test/c")
    files = {f"{name}.png": image(number) for number, name in enumerate(names)}
    work = folder_of(tmp_path, files | {f"{name}.txt": b"x" for name in names})
    assert check(work)["splits"] == {"train": 2, "test": 1}
    result = images_read(tmp_path / "in", Columns(), trigger_word="", split_of=images())
    assert [row.name for row in result.rows] == ["a.png", "b.png"]
    assert result.warnings == ["the dataset has the splits train, test; only train is used"]
    result = images_read(tmp_path / "in", Columns(), trigger_word="", split_of=images("test"))
    assert [row.name for row in result.rows] == ["c.png"]
    with pytest.raises(TrainerError, match="which has train, test"):
        images_read(tmp_path / "in", Columns(), trigger_word="", split_of=images("validation"))


def test_tables_of_all_splits_are_checked_and_read_separately(tmp_path: Path) -> None:
    work = folder_of(
        tmp_path,
        {
            "train/a.png": image(1),
            "train/metadata.jsonl": b'{"file_name": "a.png", "text": "one"}\n',
            "test/b.png": image(2),
            "test/metadata.jsonl": b'{"file_name": "b.png", "text": "two"}\n',
        },
    )
    details = check(work)
    assert (details["num_captions"], details["splits"]) == (2, {"train": 1, "test": 1})
    for split, caption in (("train", "one"), ("test", "two")):
        result = images_read(tmp_path / "in", Columns(), trigger_word="", split_of=images(split))
        assert [row.caption for row in result.rows] == [caption]


def test_parquet_with_images_is_unpacked_by_split(tmp_path: Path) -> None:
    def packed(*seeds: int) -> bytes:
        column = [{"bytes": image(seed), "path": f"{seed}.png"} for seed in seeds]
        buffer = BytesIO()
        parquet.write_table(pyarrow.table({"image": column, "text": [f"number {seed}" for seed in seeds]}), buffer)
        return buffer.getvalue()

    files = {"data/train-00000-of-00001.parquet": packed(1, 2), "data/test-00000-of-00001.parquet": packed(3)}
    work = folder_of(tmp_path, files)
    assert check(work)["splits"] == {"train": 2, "test": 1}
    result = images_read(work.folder, Columns(), trigger_word="", split_of=images("test"))
    assert [row.caption for row in result.rows] == ["number 3"]


@pytest.mark.acceptance
def test_gsm8k_trains_on_7473_rows_and_is_evaluated_on_1319(shared_data: Path, tmp_path: Path) -> None:
    paths = {name: shared_data / "gsm8k" / name for name in ("train.jsonl", "test.jsonl")}
    work = folder_of(tmp_path / "upload", {name: path.read_bytes() for name, path in paths.items()})
    assert check(work)["splits"] == {"train": 7473, "test": 1319}
    job = workspace(tmp_path / "job", "evaluate_text", tmp_path, rows=[{"question": "a", "answer": "b"}])
    (job.dataset / "rows.jsonl").unlink()
    for name, path in paths.items():
        shutil.copyfile(path, job.dataset / name)
    trained = {row.columns["question"] for row in rows_read(job.dataset, masked().split_of)}
    evaluated = {row.turns[0].text for row in rows_of(job, EvaluateTextParams(num_rows=0))}
    assert (len(rows_read(job.dataset, masked().split_of)), len(rows_of(job, EvaluateTextParams(num_rows=0)))) == (
        7473,
        1319,
    )
    assert not trained & evaluated
