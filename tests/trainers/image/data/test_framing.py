"""Where crops lie: every offset that fits is possible, and a draw reaches each place and each flip."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from trainers.image.data.batches import draw_crop
from trainers.image.data.framing import CROPS, Framing, Shape, view_of
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
