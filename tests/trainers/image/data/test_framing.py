"""Where crops lie: every offset that fits is possible, and a draw reaches each place and each flip."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.trainers.job import image_make
from trainers.image.data.batches import draw_crop
from trainers.image.data.crops import crop_image
from trainers.image.data.framing import CROPS, Framing, Shape, View, shape_for, shapes_of, view_of
from trainers.image.data.image_rows import ImageRow

SHAPE = Shape(64, 64)


@pytest.fixture
def wide(tmp_path: Path) -> ImageRow:
    """An image of 67 x 64: four horizontal offsets fit (0 to 3), one vertical."""
    Image.new("RGB", (67, 64)).save(tmp_path / "wide.png")
    return ImageRow(tmp_path / "wide.png", "a caption", "wide.png")


def framing(*, center_crop: bool = False, random_flip: bool = False) -> Framing:
    return Framing((SHAPE,), "lanczos", center_crop, random_flip)


def test_random_crops_reach_every_offset_that_fits_and_none_beyond(wide: ImageRow) -> None:
    lefts: Counter[int] = Counter()
    for number in range(100):
        view = view_of(wide, framing(), f"{number:016x}" + "0" * 48)
        assert {crop.top for crop in view.crops[0]} == {0}
        lefts.update(crop.left for crop in view.crops[0])
    assert set(lefts) == {0, 1, 2, 3}
    assert all(60 <= count <= 140 for count in lefts.values()), lefts  # 100 expected of each, 5 sigma = 43


def test_a_centre_crop_has_one_place(wide: ImageRow) -> None:
    view = view_of(wide, framing(center_crop=True), "0" * 64)
    assert [[(crop.left, crop.top) for crop in row] for row in view.crops] == [[(1, 0)]]


@pytest.mark.parametrize("flips", [1, 2])
def test_a_draw_reaches_each_place_and_each_flip(wide: ImageRow, flips: int) -> None:
    view = view_of(wide, framing(random_flip=flips == 2), "0" * 64)
    assert [len(row) for row in view.crops] == [CROPS] * flips
    cells = [[(flip, place) for place in range(CROPS)] for flip in range(flips)]
    draws = Counter(draw_crop(cells, 7, step, position) for step in range(100) for position in range(4))  # type: ignore[type-var, arg-type]
    assert set(draws) == {(flip, place) for flip in range(flips) for place in range(CROPS)}
    expected = 400 / (flips * CROPS)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in draws.values()), draws


@pytest.mark.parametrize(
    ("resolution", "multiple", "step"), [(64, 8, 8), (128, 16, 16), (256, 8, 32), (512, 16, 64), (1024, 8, 64)]
)
def test_shapes_are_about_as_large_as_the_square_in_whole_steps(resolution: int, multiple: int, step: int) -> None:
    shapes = shapes_of(resolution, multiple)
    assert Shape(resolution, resolution) in shapes
    assert all(side % step == 0 for shape in shapes for side in shape)
    assert all(0.75 * resolution**2 <= shape.width * shape.height <= resolution**2 for shape in shapes)
    assert {Shape(shape.height, shape.width) for shape in shapes} == set(shapes)
    assert max(shape.width / shape.height for shape in shapes) == 4


@pytest.mark.parametrize(
    ("size", "shape"),
    [
        ((512, 512), (512, 512)),
        ((3000, 2000), (640, 384)),
        ((2000, 3000), (384, 640)),
        ((1000, 10), (1024, 256)),
        ((530, 500), (512, 512)),
    ],
)
def test_an_image_gets_the_shape_of_the_nearest_aspect(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert shape_for(*size, shapes_of(512, 8)) == shape


def view(path: Path, *, center: bool = True, flip: bool = False, shapes: tuple[Shape, ...] = ()) -> View:
    framing = Framing(shapes or (Shape(64, 64),), "nearest", center_crop=center, random_flip=flip)
    image = ImageRow(path, "", path.name)
    return view_of(image, framing, image.sha256())


def test_a_wide_image_keeps_what_a_square_would_cut(tmp_path: Path) -> None:
    image_make(tmp_path / "wide.png", (120, 80), seed=1)
    square, bucket = view(tmp_path / "wide.png"), view(tmp_path / "wide.png", shapes=tuple(shapes_of(64, 8)))
    assert square.resized == (96, 64)
    assert bucket.shape == (80, 48)
    assert bucket.resized == (80, 53)


def test_sdxl_is_told_the_original_size_the_crop_after_the_resize_and_the_target(tmp_path: Path) -> None:
    image_make(tmp_path / "wide.png", (240, 160), seed=1)
    actual = view(tmp_path / "wide.png")
    assert actual.sizes(actual.crops[0][0]) == (160, 240, 0, 16, 64, 64)


def test_the_crop_of_a_mirrored_image_is_told_as_in_the_mirrored_image(tmp_path: Path) -> None:
    ramp = np.zeros((64, 96, 3), dtype=np.uint8)
    ramp[:, :, 0] = np.arange(96)[None, :]
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    actual = view(tmp_path / "ramp.png", center=False, flip=True)
    mirrored = np.asarray(Image.fromarray(ramp))[:, ::-1]
    for crop in actual.crops[1]:
        left = actual.sizes(crop)[3]
        cut = crop_image(ImageRow(tmp_path / "ramp.png", "", ""), crop, interpolation="nearest")
        assert np.array_equal(np.asarray(cut), mirrored[:, left : left + 64])
    assert len({crop.left for crop in actual.crops[1]}) > 1
    assert [crop.left for crop in actual.crops[0]] == [crop.left for crop in actual.crops[1]]
