"""Crops, masks and augmentations: every offset that fits is possible, a draw reaches each place and each flip."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trainers.job import image_make
from trainers.contract.errors import TrainerError
from trainers.image.data.batches import draw_crop
from trainers.image.data.framing import (
    CROPS,
    UNCHANGED,
    Augment,
    Change,
    Crop,
    Framing,
    Shape,
    View,
    cover_zoom,
    crop_image,
    draw_change,
    jitter,
    mask_of,
    mask_source,
    rotated_crop,
    shape_for,
    shapes_of,
    view_of,
)
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


def test_a_wide_image_keeps_its_sides_in_a_wide_shape(tmp_path: Path) -> None:
    image_make(tmp_path / "wide.png", (120, 80), seed=1)
    square, bucket = view(tmp_path / "wide.png"), view(tmp_path / "wide.png", shapes=tuple(shapes_of(64, 8)))
    assert square.resized == (96, 64)
    assert bucket.shape == (80, 48)
    assert bucket.resized == (80, 53)


def test_sdxl_sizes_are_original_crop_after_resize_and_target(tmp_path: Path) -> None:
    image_make(tmp_path / "wide.png", (240, 160), seed=1)
    actual = view(tmp_path / "wide.png")
    assert actual.sizes(actual.crops[0][0]) == (160, 240, 0, 16, 64, 64)


def test_sdxl_sizes_of_a_mirrored_crop_are_in_the_mirrored_image(tmp_path: Path) -> None:
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


NEAREST = Image.Resampling.NEAREST


def plain(colour: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (4, 4), colour)


def colour_of(change: Change, colour: tuple[int, int, int]) -> tuple[int, ...]:
    pixel = jitter(plain(colour), change).getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return tuple(int(level) for level in pixel)


class TestJitter:
    def test_brightness_is_a_factor_and_is_clipped(self) -> None:
        assert colour_of(Change(brightness=1.5), (100, 40, 200)) == (150, 60, 255)

    def test_contrast_scales_the_distance_to_the_mean_grey(self) -> None:
        halves = Image.new("RGB", (4, 4), (100, 100, 100))
        halves.paste((200, 200, 200), (0, 0, 2, 4))
        changed = jitter(halves, Change(contrast=0.5))
        assert [changed.getpixel((x, 0)) for x in (0, 3)] == [(175, 175, 175), (125, 125, 125)]

    def test_saturation_scales_the_distance_to_the_grey_of_each_pixel(self) -> None:
        grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
        expected = [grey + 0.5 * (level - grey) for level in (200, 100, 50)]
        assert colour_of(Change(saturation=0.5), (200, 100, 50)) == pytest.approx(expected, abs=1)

    def test_hue_turns_red_to_green_by_a_third_of_the_circle(self) -> None:
        assert colour_of(Change(hue=1 / 3), (255, 0, 0)) == pytest.approx((0, 255, 0), abs=6)
        assert colour_of(Change(hue=0.5), (90, 90, 90)) == (90, 90, 90)

    def test_the_default_change_is_the_identity(self) -> None:
        image = Image.effect_noise((16, 16), 50).convert("RGB")
        assert jitter(image, UNCHANGED) is image


class TestRotation:
    @pytest.mark.parametrize("degrees", [-45, -5, 3, 20, 45])
    @pytest.mark.parametrize("size", [(100, 60), (64, 64), (30, 90)])
    def test_no_border_shows(self, degrees: float, size: tuple[int, int]) -> None:
        white = Image.new("RGB", size, "white")
        turned = rotated_crop(white, (0, 0, *size), degrees, Image.Resampling.BICUBIC)
        assert np.asarray(turned).min() == 255

    def test_rotation_is_counter_clockwise_about_the_centre(self) -> None:
        half = Image.new("L", (101, 101), 0)
        half.paste(255, (51, 0, 101, 101))  # the right half
        turned = np.asarray(rotated_crop(half, (0, 0, 101, 101), 30, NEAREST))
        edges = [int((row > 0).argmax()) for row in turned[[0, 50, 100]]]
        slope = np.tan(np.radians(30)) * 50
        assert edges == pytest.approx([51 - slope, 51, 51 + slope], abs=1.5)

    def test_rotation_enlarges_only_as_much_as_the_corners_need(self) -> None:
        assert cover_zoom(64, 64, 45) == pytest.approx(2**0.5)
        assert cover_zoom(200, 100, 0) == 1
        ramp = Image.fromarray(np.arange(100, dtype=np.uint8)[None, :].repeat(100, 0))
        turned = np.asarray(rotated_crop(ramp, (0, 0, 100, 100), 10, NEAREST)).astype(float)
        step = np.diff(turned[50]).mean()
        assert step == pytest.approx(np.cos(np.radians(10)) / cover_zoom(100, 100, 10), rel=0.05)

    def test_a_rotated_crop_equals_the_crop_of_the_rotated_image(self) -> None:
        image = Image.effect_noise((80, 60), 50)
        rotated = rotated_crop(image, (0, 0, 80, 60), 7, NEAREST)
        assert rotated_crop(image, (10, 5, 50, 45), 7, NEAREST) == rotated.crop((10, 5, 50, 45))


class TestDraws:
    AUGMENT = Augment(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, degrees=5, rotation_prob=0.3)

    def draws(self, augment: Augment) -> list[Change]:
        return [draw_change(augment, 42, step, position) for step in range(500) for position in range(2)]

    def test_drawn_changes_fill_their_ranges(self) -> None:
        changed = self.draws(self.AUGMENT)
        for name, middle, span in (
            ("brightness", 1, 0.1),
            ("contrast", 1, 0.2),
            ("saturation", 1, 0.3),
            ("hue", 0, 0.05),
        ):
            values = [getattr(change, name) for change in changed]
            assert middle - span <= min(values) < middle - 0.9 * span
            assert middle + 0.9 * span < max(values) <= middle + span

    def test_rotation_prob_of_the_samples_are_rotated_within_the_angle(self) -> None:
        angles = [change.degrees for change in self.draws(self.AUGMENT) if change.degrees]
        assert len(angles) / 1000 == pytest.approx(0.3, abs=0.05)
        assert -5 <= min(angles) < -4
        assert 4 < max(angles) <= 5

    def test_a_draw_is_a_function_of_seed_step_and_position(self) -> None:
        once = draw_change(self.AUGMENT, 1, 2, 3)
        assert once == draw_change(self.AUGMENT, 1, 2, 3)
        others = {draw_change(self.AUGMENT, *at) for at in ((2, 2, 3), (1, 3, 3), (1, 2, 4))}
        assert once not in others
        assert len(others) == 3

    def test_without_augmentation_nothing_is_drawn(self) -> None:
        assert draw_change(Augment(degrees=5), 1, 2, 3) is UNCHANGED


SQUARE = Crop(0, 0, False, Shape(64, 64))


@pytest.fixture
def left_half(tmp_path: Path) -> ImageRow:
    """Opaque on its left half."""
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 32, 64))
    image.save(tmp_path / "half.png")
    return ImageRow(tmp_path / "half.png", "", "half.png")


def test_alpha_is_averaged_down_to_the_latent(left_half: ImageRow) -> None:
    mask_1HW = mask_of(left_half, "alpha", SQUARE, 8, 8)
    assert mask_1HW.shape == (1, 8, 8)
    assert torch.equal(mask_1HW[0], (torch.arange(8) < 4).float().expand(8, 8))
    assert mask_of(left_half, "alpha", SQUARE, 1, 1).item() == pytest.approx(0.5, abs=1 / 255)


def test_a_mask_is_cropped_and_mirrored_with_its_image(left_half: ImageRow) -> None:
    enlarged = Crop(32, 0, True, Shape(64, 64))
    with Image.open(left_half.source) as image:  # type: ignore[arg-type]
        wide = Image.new("RGBA", (96, 64))
        wide.paste(image, (0, 0))
        wide.save(left_half.source)  # type: ignore[arg-type]
    assert mask_of(left_half, "alpha", enlarged, 8, 8).sum() == 0
    assert mask_of(left_half, "alpha", Crop(16, 0, True, Shape(64, 64)), 8, 8)[0, 0].tolist() == [0] * 6 + [1] * 2


def test_a_mask_is_rotated_with_its_image(left_half: ImageRow) -> None:
    turned = mask_of(left_half, "alpha", SQUARE, 64, 64, Change(degrees=30))[0]
    assert turned[0].sum() < turned[63].sum()  # counter-clockwise: the left half sinks to the lower right
    assert turned.mean().item() == pytest.approx(0.5, abs=0.02)


def test_an_opaque_image_has_weight_one_everywhere(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "opaque.png")
    image = ImageRow(tmp_path / "opaque.png", "", "opaque.png")
    assert mask_source(image, "alpha") is None
    assert mask_of(image, "alpha", SQUARE, 8, 8).min() == 1


def test_a_mask_beside_the_image_is_stretched_over_it(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    ramp = np.linspace(0, 255, 4).astype(np.uint8)[:, None].repeat(4, 1)
    Image.fromarray(ramp).save(tmp_path / "mask.png")
    image = ImageRow(tmp_path / "a.png", "", "a.png", mask=tmp_path / "mask.png")
    column = mask_of(image, "mask_column", SQUARE, 8, 8)[0, :, 0]
    assert column[0] < 0.05
    assert column[-1] > 0.95
    assert torch.all(column.diff() >= 0)


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "mask.png").write_text("no image")
    image = ImageRow(tmp_path / "a.png", "", "a.png", mask=tmp_path / "mask.png")
    with pytest.raises(TrainerError, match=r"mask of a\.png cannot be read as an image"):
        mask_of(image, "mask_column", SQUARE, 8, 8)
