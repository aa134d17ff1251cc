"""Image files of every format: the check at upload and the trainer's reader agree on what is read and refused."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from api.catalog.checking.dataset import check
from api.catalog.checking.decode import MAX_PIXELS, small_rgb
from api.catalog.checking.report import Refused
from api.catalog.checking.work import Work
from formats.datasets.images import FORMAT_ENDINGS, folder_repeats, image_format
from trainers.image.data import image_rows
from trainers.image.data.image_rows import Columns, ImageRow, ImageRows, decode, header_read, to_rgb
from trainers.image.data.images import images_read

pillow_heif.register_heif_opener()


def work_on(folder: Path, files: dict[str, bytes]) -> Work:
    (folder / "out").mkdir()
    for name, content in files.items():
        (folder / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "in" / name).write_bytes(content)
    listed = [{"path": name, "size": len(content), "sha256": name * 4} for name, content in sorted(files.items())]
    return Work(folder / "in", folder / "out", listed)


def saved(kind: str, size: tuple[int, int] = (96, 64), **options: Any) -> bytes:
    image = Image.new("RGB", size, (200, 40, 40))
    image.paste((30, 30, 220), (0, 0, size[0] // 2, size[1]))
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def trained(folder: Path, trigger: str = "sks") -> ImageRows:
    return images_read(folder / "in", Columns(), trigger_word=trigger)


@pytest.mark.parametrize("kind", [*FORMAT_ENDINGS])
def test_every_format_is_checked_and_trained_on(tmp_path: Path, kind: str) -> None:
    name = f"a{FORMAT_ENDINGS[kind][0]}"
    content = saved(kind)
    assert image_format(content[:64]) == kind
    work = work_on(tmp_path, {name: content, "a.txt": b"two colours"})
    assert check(work)["num_images"] == 1
    assert not work.notices.listed
    (row,) = trained(tmp_path).rows
    image = decode(row)
    assert image.size == (96, 64)
    left, right = image.getpixel((20, 30)), image.getpixel((80, 30))
    assert left[2] > 180 > 80 > left[0]  # type: ignore[index]
    assert right[0] > 160 > 80 > right[2]  # type: ignore[index]


@pytest.mark.parametrize("kind", ["JPEG", "HEIF", "AVIF", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied_by_both(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    work = work_on(tmp_path, {f"a{FORMAT_ENDINGS[kind][0]}": saved(kind, exif=exif.tobytes()), "a.txt": b"x"})
    check(work)
    with Image.open(work.preview.folder / "000000.jpg") as thumbnail:
        assert thumbnail.size == (64, 96)
    (row,) = trained(tmp_path).rows
    header = header_read(row)
    assert (header.width, header.height, decode(row).size) == (64, 96, (64, 96))


@pytest.mark.parametrize("kind", ["HEIF", "AVIF", "GIF"])
def test_half_a_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    name = f"a{FORMAT_ENDINGS[kind][0]}"
    content = saved(kind)
    with pytest.raises(Refused, match=f"a{FORMAT_ENDINGS[kind][0]}"):
        check(work_on(tmp_path, {name: content[: len(content) // 2], "a.txt": b"x"}))


def test_a_tiny_image_is_noticed(tmp_path: Path) -> None:
    work = work_on(tmp_path, {"a.png": saved("PNG", (1, 1)), "b.png": saved("PNG"), "a.txt": b"x", "b.txt": b"y"})
    check(work)
    assert [(notice["file"], notice["code"]) for notice in work.notices.listed] == [("a.png", "small_image")]
    assert "1 x 1 pixels" in work.notices.listed[0]["message"]


@pytest.mark.parametrize("name", ["a.png", "a.heic", "a.jsonl", "a.csv", "a.parquet", "a.safetensors"])
def test_a_file_of_zero_bytes_is_reported_as_such(tmp_path: Path, name: str) -> None:
    with pytest.raises(Refused, match=f"{name} has zero bytes"):
        check(work_on(tmp_path, {name: b""}))


def test_all_files_of_zero_bytes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(Refused) as refusal:
        check(work_on(tmp_path, {"a.png": b"", "b.png": saved("PNG"), "c.jpg": b""}))
    assert refusal.value.faults == ["a.png has zero bytes", "c.jpg has zero bytes"]


REPEATS = [
    ("10_sks dog/a.png", 10),
    ("1_dog/a.png", 1),
    ("set/3_x/a.png", 3),
    ("a.png", 1),
    ("dog/a.png", 1),
    ("2024_summer/a.png", 1),
    ("01_portraits/a.png", 1),
    ("10/a.png", 1),
    ("10_/a.png", 1),
    ("10_dog/more/a.png", 1),
]


@pytest.mark.parametrize(("path", "times"), REPEATS)
def test_repeats_are_read_from_the_folder_as_kohya_writes_them(path: str, times: int) -> None:
    assert folder_repeats(path) == times


def test_repeats_of_folders_are_noticed_at_upload_and_reach_the_trainer(tmp_path: Path) -> None:
    names = ("10_sks dog/a", "10_sks dog/b", "1_dog/c")
    files = {f"{name}.png": saved("PNG", (64 + index, 64)) for index, name in enumerate(names)}
    work = work_on(tmp_path, files | {f"{name}.txt": b"a dog" for name in names})
    details = check(work)
    assert details["repeats"] == {"10_sks dog": 10, "1_dog": 1}
    messages = [notice["message"] for notice in work.notices.listed]
    assert messages[0].startswith("an epoch sees each image in '10_sks dog' 10 times")
    assert messages[1].startswith("an epoch sees each image in '1_dog' once")
    images = trained(tmp_path)
    assert [(Path(str(row.source)).stem, row.repeats) for row in images.rows] == [("a", 10), ("b", 10), ("c", 1)]
    assert images.warnings == [messages[0].partition(";")[0]]


def test_metadata_wins_over_the_names_of_folders(tmp_path: Path) -> None:
    work = work_on(
        tmp_path,
        {"10_dog/a.png": saved("PNG"), "metadata.jsonl": b'{"file_name": "10_dog/a.png", "text": "a dog"}\n'},
    )
    assert "repeats" not in check(work)
    assert [row.repeats for row in trained(tmp_path).rows] == [1]


def test_a_gif_among_images_is_used_by_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    buffer = BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    work = work_on(tmp_path, {"a.gif": buffer.getvalue(), "b.png": saved("PNG"), "a.txt": b"x", "b.txt": b"y"})
    assert check(work)["num_images"] == 2
    row: ImageRow = trained(tmp_path).rows[0]
    assert decode(row).getpixel((5, 5)) == (254, 0, 0) or decode(row).getpixel((5, 5)) == (255, 0, 0)
    assert header_read(row).frames == 2


def grey16() -> Image.Image:
    return Image.fromarray(np.arange(256 * 4, dtype=np.uint16).reshape(4, 256) * 64)


def transparent(mode: str) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["I;16", "I", "RGBA", "LA", "L", "1", "P", "CMYK", "RGB"])
def test_thumbnails_have_the_colours_that_the_trainer_reads(mode: str) -> None:
    image = grey16().convert("I") if mode == "I" else grey16() if mode == "I;16" else transparent(mode)
    difference = np.asarray(small_rgb(image), np.int32) - np.asarray(to_rgb(image), np.int32)
    assert np.abs(difference).max() <= 1


def test_both_refuse_the_same_sizes() -> None:
    assert MAX_PIXELS == image_rows.MAX_PIXELS
