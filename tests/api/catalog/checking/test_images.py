"""Images and captions that are odd but good, and those that are refused."""

from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from api.catalog.checking.dataset import check
from api.catalog.checking.decode import image_decode
from api.catalog.checking.report import MAX_NOTICES, Refused
from formats.datasets.images import FORMAT_ENDINGS
from tests.api.actors import Files, metadata, png
from tests.api.catalog.checking.conftest import WorkOf


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def thumbnail(work: Any) -> Image.Image:
    return Image.open(work.preview.folder / "000000.jpg")


def test_orientation_is_applied(work_of: WorkOf) -> None:
    image = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6
    work = work_of({"a.jpg": saved(image, "JPEG", exif=exif)})
    check(work)
    assert thumbnail(work).size == (20, 40)


def test_sixteen_bits_are_scaled_not_cut(work_of: WorkOf) -> None:
    image = Image.new("I;16", (256, 16))
    for x in range(256):
        for y in range(16):
            image.putpixel((x, y), x * 257)
    work = work_of({"a.png": saved(image, "PNG")})
    check(work)
    shown = thumbnail(work)
    assert [abs(shown.getpixel((x, 8))[0] - x) < 6 for x in (0, 64, 128, 192, 255)] == [True] * 5  # type: ignore[index]


def test_transparency_lies_on_white(work_of: WorkOf) -> None:
    work = work_of({"a.png": saved(Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "PNG")})
    check(work)
    assert thumbnail(work).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "CMYK", "RGB"])
def test_every_usual_mode_is_seen(work_of: WorkOf, mode: str) -> None:
    kind = "TIFF" if mode == "CMYK" else "PNG"
    check(work_of({f"a.{kind.lower()}": saved(Image.new(mode, (30, 20)), kind)}))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_a_moving_image_the_first_frame_is_taken_and_named(work_of: WorkOf, kind: str) -> None:
    frames = [Image.new("RGB", (80, 80), colour) for colour in ("red", "blue")]
    name = f"a{FORMAT_ENDINGS[kind][0]}"
    work = work_of({name: saved(frames[0], kind, save_all=True, append_images=frames[1:]), "b.png": png()})
    assert check(work)["num_images"] == 2
    messages = [notice["message"] for notice in work.notices.listed if notice["code"] == "first_of_several_frames"]
    assert messages == [f"{name} has 2 frames; the first is used"]
    red, _, blue = thumbnail(work).getpixel((40, 40))  # type: ignore[misc]
    assert red > 200 > 60 > blue


def test_floating_point_is_refused(work_of: WorkOf) -> None:
    with pytest.raises(Refused, match=r"a\.tif .*floating point"):
        check(work_of({"a.tif": saved(Image.new("F", (8, 8)), "TIFF")}))


def test_the_same_image_twice_is_noticed(work_of: WorkOf) -> None:
    work = work_of({"a.png": png(), "b.png": png(), "a.txt": b"x", "b.txt": b"y"})
    check(work)
    assert [(n["file"], n["code"]) for n in work.notices.listed] == [("b.png", "the_same_image_twice")]


CAPTIONS = [
    ({"a.txt": b"\xef\xbb\xbfcat"}, ["byte_order_mark"]),
    ({"a.txt": b" \n"}, ["empty_caption"]),
    ({"a.txt": b"word, " * 1000}, ["long_caption"]),
    ({"a.txt": b"x", "a.caption": b"y"}, ["second_caption"]),
    ({"b.txt": b"x"}, ["a_caption_without_an_image", "no_caption_beside_it"]),
    ({"metadata.jsonl": metadata([{"file_name": "a.png", "text": ""}])}, ["empty_caption"]),
]


@pytest.mark.parametrize(("files", "codes"), CAPTIONS)
def test_odd_captions_are_noticed(work_of: WorkOf, files: Files, codes: list[str]) -> None:
    work = work_of({"a.png": png(), **files})
    check(work)
    assert [notice["code"] for notice in work.notices.listed] == codes


def test_a_long_caption_says_what_is_lost(work_of: WorkOf) -> None:
    work = work_of({"a.png": png(), "a.txt": b"word " * 100})
    check(work)
    message = work.notices.listed[0]["message"]
    assert "499 characters, 100 tokens or more" in message
    assert "25 or more are lost" in message


def test_a_caption_in_latin_1_is_refused_with_its_byte(work_of: WorkOf) -> None:
    with pytest.raises(Refused, match=r"a\.txt is not UTF-8: byte 3 is 0xe9"):
        check(work_of({"a.png": png(), "a.txt": b"caf\xe9"}))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"file_name": "a.png"}, "expected text in 'text', got nothing"),
        ({"file_name": "a.png", "text": ["list"]}, "expected text in 'text', got list"),
        ({"file_name": "..\\..\\x.png", "text": "x"}, "expected a file of this folder"),
    ],
)
def test_a_row_without_a_caption_is_refused_by_line(work_of: WorkOf, row: Any, message: str) -> None:
    files = {"a.png": png(), "b.png": png(), "metadata.jsonl": metadata([{"file_name": "b.png", "text": "x"}, row])}
    with pytest.raises(Refused, match=r"metadata\.jsonl line 2") as caught:
        check(work_of(files))
    assert message in str(caught.value)


def test_notices_are_bounded_and_all_counted(work_of: WorkOf) -> None:
    work = work_of({"a.png": png(), "a.txt": b"x", **{f"{n}.txt": b"x" for n in range(MAX_NOTICES + 50)}})
    check(work)
    assert (len(work.notices.listed), work.notices.count) == (MAX_NOTICES, MAX_NOTICES + 50)
    assert work.notices.warnings() == [
        f"a caption without an image: {', '.join(sorted(f'{n}.txt' for n in range(MAX_NOTICES + 50))[:10])} "
        f"and {MAX_NOTICES + 40} more"
    ]


def test_metadata_below_the_top_is_read_as_hub_datasets_have_it(work_of: WorkOf) -> None:
    csv = b"file_name,text\nimages/1.png,one\n"
    files = {"train/metadata.csv": csv, "train/images/1.png": png(8, 8), "test/metadata.csv": b"file_name,text\n"}
    work = work_of({**files, "test/2.png": png(8, 8, 1)})
    details = check(work)
    assert (details["num_images"], details["num_captions"]) == (2, 1)
    message = [(notice["file"], notice["message"]) for notice in work.notices.listed]
    assert details["splits"] == {"train": 1, "test": 1}
    both = "test/metadata.csv and train/metadata.csv"
    assert ("test/2.png", f"test/2.png has no row in {both} and is not used") in message


def test_the_pixels_of_an_upload_are_bounded_together(work_of: WorkOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.catalog.checking.work.MIN_IMAGE_BYTES", 1 << 20)
    one_colour = BytesIO()
    Image.new("RGB", (500, 400)).save(one_colour, "PNG")
    assert len(one_colour.getvalue()) < 2000
    work = work_of({f"{number}.png": one_colour.getvalue() for number in range(9)})
    with pytest.raises(Refused, match=r"at most 1048576 bytes once decoded, got more within the images up to 1.png"):
        check(work)


def test_a_thumbnail_holds_no_metadata_of_the_photo(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "described at home"
    options: dict[str, Any] = {"comment": b"SECRET-comment", "exif": exif, "xmp": b"<x>SECRET-xmp</x>"}
    Image.new("RGB", (400, 300)).save(tmp_path / "a.jpg", "JPEG", icc_profile=b"SECRET-profile", **options)
    assert b"SECRET-comment" in (tmp_path / "a.jpg").read_bytes()
    image_decode(tmp_path / "a.jpg", "a.jpg", tmp_path / "thumbnails" / "a.jpg")
    thumbnail = (tmp_path / "thumbnails" / "a.jpg").read_bytes()
    assert not any(word in thumbnail for word in (b"SECRET", b"described", b"Exif", b"\xff\xfe"))
