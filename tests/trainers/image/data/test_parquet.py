"""Images in Parquet, and the layouts of Hub datasets."""

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from tests.trainers.job import image_make
from trainers.contract.errors import TrainerError
from trainers.image.data.image_rows import Cell, Columns, ImageRows, decode, image_size
from trainers.image.data.images import images_read


def read(folder: Path, **columns: Any) -> ImageRows:
    return images_read(folder, Columns(**columns), trigger_word="")


def refusal(folder: Path, **columns: Any) -> str:
    with pytest.raises(TrainerError) as caught:
        read(folder, **columns)
    assert caught.value.reason.code == "bad_dataset"
    return caught.value.reason.message


def png(level: int) -> bytes:
    buffer = BytesIO()
    Image.new("RGB", (32 + level, 32), (level, level, level)).save(buffer, "png")
    return buffer.getvalue()


def table_write(path: Path, rows: list[dict[str, Any]], *, row_group_size: int = 3, schema: Any = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=row_group_size)


def structs(levels: range) -> list[dict[str, Any]]:
    """As the library datasets writes them."""
    return [
        {"image": {"bytes": png(level), "path": f"{level}.png"}, "text": f"an image of {level} ", "prompt": "p"}
        for level in levels
    ]


class TestParquet:
    def test_structs_of_bytes_and_path_are_images(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", structs(range(8)))
        rows = read(tmp_path).rows
        assert [row.caption for row in rows] == [f"an image of {level}" for level in range(8)]
        assert [row.where for row in rows][:2] == ["data.parquet row 1", "data.parquet row 2"]
        assert [decode(row).getpixel((0, 0)) for row in rows] == [(level,) * 3 for level in range(8)]
        assert rows[5].sha256() == hashlib.sha256(png(5)).hexdigest()

    def test_rows_are_read_in_any_order_through_all_row_groups(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", structs(range(20)), row_group_size=7)
        rows = read(tmp_path).rows
        for place in (19, 0, 13, 14, 6, 7, 3, 3, 12):
            assert image_size(rows[place]) == (32 + place, 32)

    def test_plain_bytes_are_images(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", [{"bild": png(3), "titel": "three"}])
        (row,) = read(tmp_path, image="bild", caption="titel").rows
        assert decode(row).getpixel((0, 0)) == (3, 3, 3)

    def test_names_of_files_beside_the_table_are_images(self, tmp_path: Path) -> None:
        image_make(tmp_path / "a.png", (64, 64), seed=1)
        table_write(tmp_path / "metadata.parquet", [{"file_name": "a.png", "text": "one"}])
        assert read(tmp_path).rows[0].source == tmp_path / "a.png"
        table_write(tmp_path / "metadata.parquet", [{"file_name": "../a.png", "text": "one"}])
        assert "metadata.parquet row 1: expected a file of this folder" in refusal(tmp_path)

    def test_a_missing_column_is_reported_with_the_existing_ones(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", structs(range(1)))
        assert refusal(tmp_path, caption="title") == (
            "caption_column='title' is not a column of data.parquet; it has 'image', 'text', 'prompt'"
        )
        assert refusal(tmp_path, image="bild").startswith("image_column='bild' is not a column")
        assert refusal(tmp_path, mask="alpha").startswith("mask_column='alpha' is not a column")

    def test_one_of_several_caption_columns_is_chosen(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", structs(range(1)))
        assert read(tmp_path, caption="prompt").rows[0].caption == "p"

    def test_a_column_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", [{"image": 3, "text": "a"}])
        assert "expected images (bytes, or a struct of bytes and path) in 'image', got int64" in refusal(tmp_path)
        table_write(tmp_path / "data.parquet", [{"image": png(1), "text": 3}])
        assert "expected text in 'text', got int64" in refusal(tmp_path)

    def test_an_empty_cell_is_named_with_its_row(self, tmp_path: Path) -> None:
        rows = structs(range(2))
        rows[1]["image"]["bytes"] = None
        table_write(tmp_path / "data.parquet", rows)
        with pytest.raises(TrainerError, match=r"data\.parquet row 2: expected the bytes of an image in 'image'"):
            image_size(read(tmp_path).rows[1])
        rows[1]["text"] = None
        table_write(tmp_path / "data.parquet", rows)
        assert "data.parquet row 2: expected text in 'text', got nothing" in refusal(tmp_path)

    def test_invalid_image_bytes_are_named_with_their_row(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", [{"image": b"no image", "text": "a"}])
        with pytest.raises(TrainerError) as caught:
            image_size(read(tmp_path).rows[0])
        assert caught.value.reason.message == (
            "data.parquet row 1 cannot be read as an image: cannot identify image file data.parquet row 1"
        )

    def test_a_damaged_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "data.parquet").write_bytes(b"PAR1 but not really PAR1")
        assert "data.parquet cannot be read as Parquet" in refusal(tmp_path)

    def test_masks_are_read_from_a_column(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", [{"image": png(1), "text": "a", "mask": png(9)}])
        assert read(tmp_path, mask="mask").rows[0].mask == Cell(tmp_path / "data.parquet", "mask", 0)
        assert read(tmp_path).rows[0].mask is None


class TestHubLayouts:
    def test_shards_of_the_split_train_are_read_in_order_and_the_others_named(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data" / "train-00001-of-00002.parquet", structs(range(2, 4)))
        table_write(tmp_path / "data" / "train-00000-of-00002.parquet", structs(range(2)))
        table_write(tmp_path / "data" / "test-00000-of-00001.parquet", structs(range(9, 10)))
        rows_read = read(tmp_path)
        assert [row.caption[-1] for row in rows_read.rows] == ["0", "1", "2", "3"]
        assert rows_read.warnings == ["the dataset has the splits train, test; only train is used"]

    def test_an_imagefolder_with_its_metadata_in_train_is_read(self, tmp_path: Path) -> None:
        for name in ("train/images/1.png", "train/images/2.png", "test/3.png"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            image_make(tmp_path / name, (64, 64), seed=1)
        (tmp_path / "train" / "metadata.csv").write_text("file_name,text\nimages/2.png,two\nimages/1.png,one\n")
        rows_read = read(tmp_path)
        assert [(row.name, row.caption) for row in rows_read.rows] == [("2.png", "two"), ("1.png", "one")]
        assert rows_read.warnings == ["1 images are not in metadata.csv and are not used: 3.png"]

    def test_metadata_of_several_folders_is_read_where_none_is_train(self, tmp_path: Path) -> None:
        for name in ("cats", "dogs"):
            (tmp_path / name).mkdir()
            image_make(tmp_path / name / "a.png", (64, 64), seed=1)
            row = {"file_name": "a.png", "text": name}
            (tmp_path / name / "metadata.jsonl").write_text(json.dumps(row))
        assert [row.caption for row in read(tmp_path).rows] == ["cats", "dogs"]

    def test_hidden_files_and_folders_are_skipped(self, tmp_path: Path) -> None:
        table_write(tmp_path / "data.parquet", structs(range(1)))
        table_write(tmp_path / ".cache" / "other.parquet", structs(range(5)))
        assert len(read(tmp_path).rows) == 1

    def test_metadata_at_the_top_wins_over_parquet(self, tmp_path: Path) -> None:
        image_make(tmp_path / "a.png", (64, 64), seed=1)
        (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "text": "one"}))
        table_write(tmp_path / "x.parquet", structs(range(2)))
        assert [row.caption for row in read(tmp_path).rows] == ["one"]


@pytest.mark.acceptance
def test_the_shared_parquet_set_is_read(shared_data: Path) -> None:
    rows = read(shared_data / "hostile" / "images_parquet").rows
    assert len(rows) == 5
    assert all(row.caption for row in rows)
    assert all(np.asarray(decode(row)).std() > 20 for row in reversed(rows))
