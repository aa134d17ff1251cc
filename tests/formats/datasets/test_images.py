"""What lies in a folder of images, by names alone; rows of its tables."""

from pathlib import Path

import pytest

from formats.datasets.images import ImageFolder, image_column, image_folder, metadata_rows, path_below


def image_folder_of(paths: list[str], tables: tuple[str, ...] = ()) -> ImageFolder:
    return image_folder(paths, lambda path: path in tables)


def test_parquet_beside_images_is_read_only_if_it_is_a_table_of_them() -> None:
    paths = ["a.png", "notes.parquet", "rows.parquet"]
    assert image_folder_of(paths, tables=("rows.parquet",)).tables == ["rows.parquet"]
    assert image_folder_of(["metadata.csv", *paths], tables=("rows.parquet",)).tables == ["metadata.csv"]
    assert image_folder_of(paths).tables == []
    assert image_folder_of(["notes.parquet"]).tables == ["notes.parquet"]


def test_metadata_at_the_top_wins_and_has_no_splits() -> None:
    folder = image_folder_of(["metadata.csv", "train/metadata.jsonl", "train/a.png", "test/b.png"])
    assert (folder.tables, folder.splits) == (["metadata.csv"], {})


def test_metadata_of_subfolders_is_read_by_split() -> None:
    folder = image_folder_of(["train/metadata.jsonl", "train/a.png", "train/b.png", "test/metadata.csv", "test/c.png"])
    assert folder.splits == {"train": ["train/metadata.jsonl"], "test": ["test/metadata.csv"]}
    assert folder.split_counts == {"train": 2, "test": 1}


def test_hidden_files_are_not_read() -> None:
    folder = image_folder_of([".cache/metadata.jsonl", "a.png", ".b.png", "x/.c/d.png"])
    assert (folder.tables, folder.images) == ([], ["a.png"])


def test_images_are_in_the_order_of_their_folders() -> None:
    assert image_folder_of(["a-b/1.png", "a/1.png", "a.png"]).images == ["a/1.png", "a-b/1.png", "a.png"]


def test_image_column_falls_back_to_file_name() -> None:
    assert image_column("image", ["file_name", "text"]) == "file_name"
    assert image_column("image", ["file_name", "image"]) == "image"
    assert image_column("photo", ["file_name", "image"]) == "photo"


@pytest.mark.parametrize("name", ["", ".", "../a.png", "/a.png", "C:\\a.png", "x/../../a.png", "a\0.png"])
def test_a_path_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="expected a file of this folder"):
        path_below("train", name)


def test_a_path_may_be_written_as_on_windows() -> None:
    assert path_below("train", "images\\a.png") == "train/images/a.png"


def test_a_spreadsheet_table_may_lack_cells_and_column_names(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(",file_name,text,mask\n0,a.png,one\n1,b.png,two,m.png,more\n")
    (first, second) = metadata_rows(tmp_path / "metadata.csv", "metadata.csv")
    assert first == (2, {"": "0", "file_name": "a.png", "text": "one", "mask": None})
    assert (second[0], str(second[1])) == (3, "expected 4 cells, got 5")
