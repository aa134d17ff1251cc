"""What images tell beside their pixels: said at upload, and taken out where that is asked for."""

from io import BytesIO
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageOps, PngImagePlugin

from api.catalog.checking.dataset import check
from formats.datasets.image_metadata import metadata_removed
from formats.datasets.images import FORMAT_ENDINGS
from tests.api.catalog.checking.conftest import WorkOf

KINDS = ("JPEG", "PNG", "WEBP", "TIFF", "HEIF", "AVIF")


def photo(kind: str, *, gps: bool = True, orientation: int = 6, **options: Any) -> bytes:
    image = Image.linear_gradient("L").convert("RGB").resize((96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera & Co"
    if gps:
        exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 0.0)})
    if kind == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("Comment", "Camera & Co")
    if kind == "WEBP":
        options["lossless"] = True
    buffer = BytesIO()
    image.save(buffer, kind, exif=exif.tobytes(), **options)
    return buffer.getvalue()


def upright(data: bytes) -> Image.Image:
    with Image.open(BytesIO(data)) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


@pytest.mark.parametrize("kind", KINDS)
def test_gps_is_named_with_its_count_and_the_way_out(work_of: WorkOf, kind: str) -> None:
    ending = FORMAT_ENDINGS[kind][0]
    work = work_of({f"a{ending}": photo(kind), f"b{ending}": photo(kind, gps=False, orientation=1)})
    details = check(work)
    assert (details["num_gps"], details["num_metadata"]) == (1, 2)
    assert work.notices.warnings()[:2] == [
        f"1 images hold GPS positions, which are kept; upload with strip_metadata to remove them: a{ending}",
        f"1 images hold camera data or comments, which are kept; upload with strip_metadata to remove them: b{ending}",
    ]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", KINDS)
def test_metadata_is_removed_and_no_pixel_changes(work_of: WorkOf, kind: str, orientation: int) -> None:
    path = f"a{FORMAT_ENDINGS[kind][0]}"
    before = photo(kind, orientation=orientation)
    work = work_of({path: before, "a.txt": b"a wall"})
    work.strip_metadata = True
    assert check(work)["num_stripped"] == 1
    after = work.open(path).read_bytes()
    assert b"Camera" not in after
    with Image.open(BytesIO(after)) as image:
        assert not image.getexif().get_ifd(0x8825)
    assert upright(after).size == upright(before).size
    assert ImageChops.difference(upright(after), upright(before)).getbbox() is None
    assert [file["path"] for file in work.files] == ["a.txt", path] or [file["path"] for file in work.files] == [
        path,
        "a.txt",
    ]


def test_a_jpeg_keeps_its_coded_data_and_profile() -> None:
    profile = b"profile" * 20
    data = photo("JPEG", icc_profile=profile, progressive=True, comment=b"Camera & Co")
    after = metadata_removed(data + b"Camera after the end", 6)
    assert after is not None
    assert b"Camera" not in after
    with Image.open(BytesIO(after)) as image:
        assert (image.info["icc_profile"], image.getexif()[0x0112]) == (profile, 6)
    scans = data[data.index(b"\xff\xc2") :]
    assert after.endswith(scans)


def test_what_tells_nothing_is_not_touched(work_of: WorkOf) -> None:
    buffer = BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "JPEG")
    work = work_of({"a.jpg": buffer.getvalue(), "a.txt": b"x"})
    work.strip_metadata = True
    details = check(work)
    assert ("num_stripped" in details, work.replaced, work.notices.count) == (False, None, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_file_that_ends_early_is_left_to_the_decoder(kind: str) -> None:
    data = photo(kind)
    assert all(metadata_removed(data[:length], 1) is None for length in (3, 13, len(data) // 2))
