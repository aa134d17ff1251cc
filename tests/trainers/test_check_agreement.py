"""Every file of ../shared/data through the check at upload and through the trainer's reader: both say the same."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from api.catalog.checking.dataset import check
from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from tests.trainers.job import image_make
from trainers.contract.errors import TrainerError
from trainers.image.data.image_rows import Columns, decode
from trainers.image.data.images import images_read
from trainers.text.data.rows import dialogues_of, rows_read

FOLDERS = (
    "hostile/captions",
    "hostile/metadata_bad",
    "hostile/images_parquet",
    "images/noto_emoji",
    "images/pd_photos",
    "images/dreambooth/dog",
    "images/dreambooth/backpack_dog",
    "images/dreambooth/grey_sloth_plushie",
    "text",
    "text/tinyshakespeare",
    "text/wikitext2",
)
FILES = ("hostile/images", "hostile/text", "instruct", "gsm8k")
"""Folders whose files are datasets of their own."""
VECTORS = (".svg",)


def datasets(shared: Path) -> dict[str, list[Path]]:
    result = {name: [path for path in sorted((shared / name).iterdir()) if path.is_file()] for name in FOLDERS}
    for name in FILES:
        paths = (path for path in sorted((shared / name).iterdir()) if path.suffix not in (".md", *VECTORS, ""))
        result |= {f"{name}/{path.name}": [path] for path in paths}
    return result


def listed(paths: list[Path]) -> list[dict[str, Any]]:
    return [
        {"path": path.name, "size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in paths
    ]


def trained(folder: Path, kind: str) -> int:
    """How many images or rows a trainer reads. Raises TrainerError."""
    if kind == "text":
        return len(rows_read(folder))
    rows = images_read(folder, Columns(), trigger_word="sks").rows
    return len([decode(row) for row in rows])


def kind_of(name: str) -> str:
    return "images" if any(word in name for word in ("images", "captions", "metadata")) else "text"


@pytest.mark.acceptance
def test_the_check_and_the_trainer_agree_on_every_file(shared_data: Path, tmp_path: Path) -> None:
    disagreements = []
    for number, (name, paths) in enumerate(datasets(shared_data).items()):
        source, target = tmp_path / f"{number}-in", tmp_path / f"{number}-out"
        source.mkdir()
        target.mkdir()
        for path in paths:
            shutil.copyfile(path, source / path.name)
        work = Work(source, target, listed(paths))
        try:
            details = check(work)
            checked = int(details["num_rows"] if details["kind"] == "text" else details["num_images"])
        except Refused:
            checked = -1
        try:
            read = trained(work.folder, kind_of(name))
        except TrainerError:
            read = -1
        if checked != read:
            disagreements.append(f"{name}: the check gives {checked}, the trainer {read}")
        if checked >= 0 and kind_of(name) == "text":
            disagreements += templates_disagreement(name, work)
    assert not disagreements


@pytest.mark.parametrize(
    ("columns", "captions"),
    [
        ({"file_name": ["a.png", "b.png"], "text": ["from", "rows"]}, ["from", "rows"]),
        ({"n": [1]}, ["beside", "beside"]),
    ],
)
def test_parquet_beside_images_counts_only_as_a_table_of_them(
    columns: dict[str, list[str | int]], captions: list[str], tmp_path: Path
) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    target.mkdir()
    for stem in "ab":
        image_make(source / f"{stem}.png", (64, 64), seed=ord(stem))
        (source / f"{stem}.txt").write_text("beside")
    parquet.write_table(pyarrow.table(columns), source / "x.parquet")
    work = Work(source, target, listed(sorted(source.iterdir())))
    assert check(work)["num_captions"] == 2
    previews = json.loads((work.preview.folder / "items-00000.json").read_text())
    assert [preview["caption"] for preview in previews] == captions
    assert [row.caption for row in images_read(work.folder, Columns(), trigger_word="").rows] == captions


def templates_disagreement(name: str, work: Work) -> list[str]:
    """The check says which rows a training refuses without templates."""
    noticed = any(notice["code"] == "rows_that_need_templates" for notice in work.notices.listed)
    try:
        dialogues_of(rows_read(work.folder))
        refused = False
    except TrainerError:
        refused = True
    return [] if noticed == refused else [f"{name}: notice {noticed}, refused {refused}"]
