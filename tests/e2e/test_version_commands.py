"""Datasets and base models by command, against the real API: folder, zip, preview, use, delete."""

import shutil
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import Embedded


@pytest.fixture(scope="module")
def zipped(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "images"), "zip", images))


def test_a_zip_makes_the_version_of_its_folder(embedded: Embedded, images: Path, zipped: Path) -> None:
    folder = embedded.json("dataset", "add", "by-folder", str(images))
    archive = embedded.json("dataset", "add", "by-zip", str(zipped))
    assert archive["digest"] == folder["digest"]
    assert archive["num_files"] == len(list(images.iterdir()))


def test_a_preview_shows_images_with_captions(embedded: Embedded, images: Path) -> None:
    embedded.anneal("dataset", "add", "shown", str(images))
    items = embedded.json("dataset", "preview", "shown")
    assert {item["path"]: item["caption"] for item in items}["red.png"] == "all red"
    assert len(embedded.json("dataset", "preview", "shown", "--most", "2")) == 2
    assert "64 x 64" in embedded.anneal("dataset", "preview", "shown@1")


def test_a_refused_zip_says_which_file_and_leaves_no_name(embedded: Embedded, tmp_path: Path) -> None:
    hostile = tmp_path / "hostile.zip"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("../evil.png", b"x")
    done = embedded.run("dataset", "add", "hostile", str(hostile))
    assert done.exit_code == 1
    assert "evil.png" in done.stderr
    assert "hostile" not in [row["name"] for row in embedded.json("dataset", "list")]


def test_a_refused_version_leaves_those_before(embedded: Embedded, images: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(images, tmp_path / "broken"))
    (broken / "red.png").write_bytes(b"no image")
    embedded.anneal("dataset", "add", "mended", str(images))
    assert embedded.run("dataset", "add", "mended", str(broken)).exit_code == 1
    assert embedded.json("dataset", "show", "mended")["versions"] == [1]


def test_one_version_is_deleted_then_the_name(embedded: Embedded, images: Path, tmp_path: Path) -> None:
    more = Path(shutil.copytree(images, tmp_path / "more"))
    (more / "red.png").rename(more / "dark.png")
    (more / "metadata.jsonl").write_text((images / "metadata.jsonl").read_text().replace("red.png", "dark.png"))
    embedded.anneal("dataset", "add", "deleted", str(images))
    assert embedded.json("dataset", "add", "deleted", str(more))["version"] == 2
    assert embedded.run("dataset", "delete", "deleted").exit_code == 2
    assert embedded.run("dataset", "delete", "deleted@1", "--all-versions").exit_code == 2
    embedded.anneal("dataset", "delete", "deleted@1")
    assert embedded.json("dataset", "show", "deleted")["versions"] == [2]
    embedded.anneal("dataset", "delete", "deleted", "--all-versions")
    assert "deleted" not in [row["name"] for row in embedded.json("dataset", "list", "--search", "delete")]


def test_what_a_template_uses_is_not_deleted(platform: Embedded) -> None:
    assert "quick" in str(platform.json("dataset", "used-by", "plain")["templates"])
    refused = platform.run("dataset", "delete", "plain", "--all-versions")
    assert refused.exit_code == 1
    assert "quick" in refused.stderr


def test_the_usage_counts_what_was_uploaded(embedded: Embedded, images: Path) -> None:
    before = embedded.json("usage")
    size_bytes = embedded.json("dataset", "add", "counted", str(images))["size_bytes"]
    after = embedded.json("usage")
    assert after["total_bytes"] - before["total_bytes"] == size_bytes
    assert "datasets" in embedded.anneal("usage")
