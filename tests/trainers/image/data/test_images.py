"""Datasets of images: what is read, and what is refused with the file and row that is wrong."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tolerance import PRODUCT, assert_near
from tests.trainers.job import image_make
from trainers.contract.errors import TrainerError
from trainers.image.data.framing import Crop, Shape, pixels, resized_size
from trainers.image.data.image_rows import Columns, ImageRow, ImageRows, decode, image_size
from trainers.image.data.images import images_read

SQUARE = Shape(64, 64)


def read(folder: Path, *, image: str = "image", caption: str = "text", trigger: str = "") -> ImageRows:
    return images_read(folder, Columns(image, caption), trigger_word=trigger)


def refusal(folder: Path, **options: str) -> str:
    with pytest.raises(TrainerError) as caught:
        read(folder, **options)
    assert caught.value.reason.code == "bad_dataset"
    return caught.value.reason.message


def metadata(folder: Path, *rows: object) -> None:
    folder.joinpath("metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.png", "b.png"):
        image_make(tmp_path / name, (64, 64), seed=1)
    return tmp_path


def image(path: Path) -> ImageRow:
    return ImageRow(path, "a caption", path.name)


class TestMetadata:
    def test_jsonl_gives_the_rows_in_its_order(self, folder: Path) -> None:
        metadata(folder, {"file_name": "b.png", "text": " two "}, {"file_name": "a.png", "text": "one"})
        assert [(row.name, row.caption) for row in read(folder).rows] == [("b.png", "two"), ("a.png", "one")]

    def test_csv_is_read_with_quotes_and_commas(self, folder: Path) -> None:
        folder.joinpath("metadata.csv").write_text('file_name,text\na.png,"a cat, ""sitting"""\nb.png,dog\n')
        assert [row.caption for row in read(folder).rows] == ['a cat, "sitting"', "dog"]

    @pytest.mark.parametrize("odd", ["\u2028", "\u2029", "\x85", "\x0c", "\x1d"])
    @pytest.mark.parametrize("kind", ["jsonl", "csv"])
    def test_only_a_line_feed_ends_a_row(self, folder: Path, odd: str, kind: str) -> None:
        """The check at upload, and what writes captions, know no other end."""
        caption = f"one{odd}two"
        if kind == "jsonl":
            rows = [json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) for name in ("a.png", "b.png")]
        else:
            rows = ["file_name,text", f"a.png,{caption}", f"b.png,{caption}"]
        folder.joinpath(f"metadata.{kind}").write_text("\n".join(rows) + "\n", encoding="utf-8")
        assert [(row.name, row.caption) for row in read(folder).rows] == [("a.png", caption), ("b.png", caption)]

    def test_a_missing_column_is_reported_with_the_existing_ones(self, folder: Path) -> None:
        metadata(folder, {"file_name": "a.png", "txet": "a cat"})
        assert refusal(folder) == "caption_column='text' is not a column of metadata.jsonl; it has 'file_name', 'txet'"
        assert "image_column='bild' is not a column" in refusal(folder, image="bild", caption="txet")

    def test_a_missing_image_is_named_with_its_row(self, folder: Path) -> None:
        metadata(folder, {"file_name": "a.png", "text": "a"}, {"file_name": "gone.png", "text": "b"})
        assert "1 of 2 images are not in the dataset: gone.png (metadata.jsonl line 2)" in refusal(folder)

    @pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "x/../../y.png", "C:\\x.png", "..\\x.png", ""])
    def test_a_name_that_leaves_the_folder_is_refused(self, folder: Path, name: str) -> None:
        metadata(folder, {"file_name": name, "text": "a"})
        assert "expected a file of this folder" in refusal(folder)

    @pytest.mark.parametrize("caption", [None, 3, ["a", "list"]])
    def test_a_caption_that_is_not_text_is_refused_with_its_row(self, folder: Path, caption: object) -> None:
        metadata(folder, {"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": caption})
        assert "metadata.jsonl line 2: expected text in 'text', got" in refusal(folder)

    def test_an_empty_caption_needs_a_trigger_word(self, folder: Path) -> None:
        metadata(folder, {"file_name": "a.png", "text": "a"}, {"file_name": "b.png", "text": " "})
        assert "1 of 2 captions are empty: b.png (metadata.jsonl line 2)" in refusal(folder)
        assert [row.caption for row in read(folder, trigger="sks").rows] == ["a", ""]

    def test_a_line_that_is_not_json_is_named(self, folder: Path) -> None:
        folder.joinpath("metadata.jsonl").write_text('{"file_name": "a.png", "text": "a"}\n\n{broken\n')
        assert "metadata.jsonl line 3: not JSON" in refusal(folder)

    def test_images_beside_the_metadata_are_named_in_a_warning(self, folder: Path) -> None:
        metadata(folder, {"file_name": "a.png", "text": "a"})
        assert read(folder).warnings == ["1 images are not in metadata.jsonl and are not used: b.png"]


class TestSidecars:
    def test_txt_and_caption_files_are_read(self, folder: Path) -> None:
        folder.joinpath("a.txt").write_text("one\n")
        folder.joinpath("b.caption").write_text("two")
        assert [row.caption for row in read(folder).rows] == ["one", "two"]

    def test_an_image_without_caption_is_refused_by_name(self, folder: Path) -> None:
        folder.joinpath("a.txt").write_text("one")
        assert "1 of 2 images have no caption" in refusal(folder, trigger="sks")
        assert refusal(folder).endswith(": b.png; write them")

    def test_missing_captions_with_a_trigger_word_give_a_warning(self, folder: Path) -> None:
        assert "2 of 2 images have no caption" in refusal(folder)
        assert "trigger word 'sks' alone" in read(folder, trigger="sks").warnings[0]

    def test_a_caption_that_is_not_utf8_is_refused_by_name(self, folder: Path) -> None:
        folder.joinpath("a.txt").write_bytes("fenêtre".encode("latin-1"))
        assert "a.txt is not UTF-8" in refusal(folder)

    def test_an_empty_folder_is_refused(self, tmp_path: Path) -> None:
        assert "found none" in refusal(tmp_path)


class TestPixels:
    def test_the_shorter_side_becomes_the_resolution(self, tmp_path: Path) -> None:
        for size, expected in (((200, 100), (128, 64)), ((100, 150), (64, 96)), ((64, 64), (64, 64))):
            image_make(tmp_path / "x.png", size, seed=1)
            assert resized_size(image(tmp_path / "x.png"), SQUARE) == expected

    def test_the_crop_is_cut_at_its_place_and_flipped(self, tmp_path: Path) -> None:
        ramp = np.zeros((64, 128, 3), dtype=np.uint8)
        ramp[:, :, 0] = np.arange(128)[None, :]
        Image.fromarray(ramp).save(tmp_path / "ramp.png")
        actual = pixels(image(tmp_path / "ramp.png"), Crop(10, 0, False, SQUARE), interpolation="nearest")
        mirrored = pixels(image(tmp_path / "ramp.png"), Crop(10, 0, True, SQUARE), interpolation="nearest")
        assert_near(actual[0, 0], torch.arange(10, 74) / 127.5 - 1, PRODUCT)
        assert torch.equal(mirrored, actual.flip(-1))

    def test_values_run_from_minus_1_to_1(self, tmp_path: Path) -> None:
        Image.new("RGB", (64, 64), (0, 128, 255)).save(tmp_path / "x.png")
        actual = pixels(image(tmp_path / "x.png"), Crop(0, 0, False, SQUARE), interpolation="lanczos")
        assert actual[:, 0, 0].tolist() == pytest.approx([-1, 128 / 127.5 - 1, 1], abs=1e-6)

    def test_sixteen_bits_are_scaled_not_clipped(self, tmp_path: Path) -> None:
        ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(16, 0)
        Image.fromarray(ramp).save(tmp_path / "x.png")
        assert np.asarray(decode(image(tmp_path / "x.png")))[0, :, 0].tolist() == list(range(256))

    def test_transparency_is_laid_on_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
        Image.new("RGBA", (8, 8), (255, 0, 0, 128)).save(tmp_path / "half.png")
        assert decode(image(tmp_path / "clear.png")).getpixel((0, 0)) == (255, 255, 255)
        assert decode(image(tmp_path / "half.png")).getpixel((0, 0)) == (255, 127, 127)

    def test_exif_orientation_is_applied(self, tmp_path: Path) -> None:
        canvas, exif = Image.new("RGB", (80, 64), "blue"), Image.Exif()
        canvas.paste("red", (0, 0, 8, 64))  # the left edge, which orientation 6 turns to the top
        exif[0x0112] = 6
        canvas.save(tmp_path / "turned.png", exif=exif)
        assert image_size(image(tmp_path / "turned.png")) == (64, 80)
        assert decode(image(tmp_path / "turned.png")).getpixel((32, 2)) == (255, 0, 0)

    def test_a_thin_image_that_would_become_huge_is_refused(self, tmp_path: Path) -> None:
        Image.new("RGB", (256, 4096)).save(tmp_path / "thin.png")
        with pytest.raises(TrainerError, match="256 x 4096 becomes 2048 x 32768"):
            resized_size(image(tmp_path / "thin.png"), Shape(2048, 2048))
        Image.new("RGB", (1, 4000)).save(tmp_path / "thinner.png")
        with pytest.raises(TrainerError, match="at most 16 times the shorter, got 1 x 4000 pixels"):
            decode(image(tmp_path / "thinner.png"))


@pytest.mark.acceptance
class TestHostileFiles:
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("truncated_header.jpg", "cannot be"),
            ("text_named.png", "cannot be read as an image"),
            ("bomb_40000x40000.png", "pixels"),
            ("header_lie_100000.png", "pixels"),
            ("svg_script.svg", "cannot be read as an image"),
        ],
    )
    def test_are_refused_by_name(self, name: str, reason: str, shared_data: Path) -> None:
        with pytest.raises(TrainerError, match=reason) as caught:
            decode(image(shared_data / "hostile" / "images" / name))
        assert caught.value.reason.message.startswith(name)
        assert str(shared_data) not in caught.value.reason.message

    def test_unusual_valid_files_are_decoded(self, shared_data: Path) -> None:
        folder = shared_data / "hostile" / "images"
        odd = ("png_named.jpg", "gray.png", "one_bit.png", "bmp.bmp", "rgba.png", "space and ünïcode 日本 🐕.jpg")
        assert all(decode(image(folder / name)).mode == "RGB" for name in odd)
        assert decode(image(folder / "exif_rotated.jpg")).size == (320, 256)
        grey = np.asarray(decode(image(folder / "gray16.png")))
        assert grey.min() == 0
        assert grey.max() == 255
        assert 100 < grey.mean() < 155

    def test_bad_metadata_opens_no_file_outside(self, shared_data: Path) -> None:
        assert "expected a file of this folder" in refusal(shared_data / "hostile" / "metadata_bad")

    def test_missing_and_invalid_captions_are_named(self, shared_data: Path, tmp_path: Path) -> None:
        shutil.copytree(shared_data / "hostile" / "captions", tmp_path / "captions")
        assert "latin1_caption.txt is not UTF-8" in refusal(tmp_path / "captions")
        tmp_path.joinpath("captions", "latin1_caption.txt").write_text("mended")
        assert "missing_caption.jpg" in refusal(tmp_path / "captions")
