"""Colour jitter and rotation against closed forms."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.contract.errors import TrainerError
from trainers.image.data.crops import (
    UNCHANGED,
    Augment,
    Change,
    cover_zoom,
    draw_change,
    jitter,
    mask_of,
    mask_source,
    rotated_crop,
)
from trainers.image.data.framing import Crop, Shape
from trainers.image.data.image_rows import ImageRow

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

    def test_contrast_goes_away_from_the_mean_grey(self) -> None:
        halves = Image.new("RGB", (4, 4), (100, 100, 100))
        halves.paste((200, 200, 200), (0, 0, 2, 4))
        changed = jitter(halves, Change(contrast=0.5))
        assert [changed.getpixel((x, 0)) for x in (0, 3)] == [(175, 175, 175), (125, 125, 125)]

    def test_saturation_goes_away_from_the_grey_of_each_pixel(self) -> None:
        grey = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)
        expected = [grey + 0.5 * (level - grey) for level in (200, 100, 50)]
        assert colour_of(Change(saturation=0.5), (200, 100, 50)) == pytest.approx(expected, abs=1)

    def test_hue_turns_red_to_green_by_a_third_of_the_circle(self) -> None:
        assert colour_of(Change(hue=1 / 3), (255, 0, 0)) == pytest.approx((0, 255, 0), abs=6)
        assert colour_of(Change(hue=0.5), (90, 90, 90)) == (90, 90, 90)

    def test_nothing_changes_unasked(self) -> None:
        image = Image.effect_noise((16, 16), 50).convert("RGB")
        assert jitter(image, UNCHANGED) is image


class TestRotation:
    @pytest.mark.parametrize("degrees", [-45, -5, 3, 20, 45])
    @pytest.mark.parametrize("size", [(100, 60), (64, 64), (30, 90)])
    def test_no_border_shows(self, degrees: float, size: tuple[int, int]) -> None:
        white = Image.new("RGB", size, "white")
        turned = rotated_crop(white, (0, 0, *size), degrees, Image.Resampling.BICUBIC)
        assert np.asarray(turned).min() == 255

    def test_it_turns_counter_clockwise_about_the_centre(self) -> None:
        half = Image.new("L", (101, 101), 0)
        half.paste(255, (51, 0, 101, 101))  # the right half
        turned = np.asarray(rotated_crop(half, (0, 0, 101, 101), 30, NEAREST))
        edges = [int((row > 0).argmax()) for row in turned[[0, 50, 100]]]
        slope = np.tan(np.radians(30)) * 50
        assert edges == pytest.approx([51 - slope, 51, 51 + slope], abs=1.5)

    def test_it_grows_no_more_than_the_corners_need(self) -> None:
        assert cover_zoom(64, 64, 45) == pytest.approx(2**0.5)
        assert cover_zoom(200, 100, 0) == 1
        ramp = Image.fromarray(np.arange(100, dtype=np.uint8)[None, :].repeat(100, 0))
        turned = np.asarray(rotated_crop(ramp, (0, 0, 100, 100), 10, NEAREST)).astype(float)
        step = np.diff(turned[50]).mean()
        assert step == pytest.approx(np.cos(np.radians(10)) / cover_zoom(100, 100, 10), rel=0.05)

    def test_a_crop_of_the_turned_image_is_that_part_of_it(self) -> None:
        image = Image.effect_noise((80, 60), 50)
        rotated = rotated_crop(image, (0, 0, 80, 60), 7, NEAREST)
        assert rotated_crop(image, (10, 5, 50, 45), 7, NEAREST) == rotated.crop((10, 5, 50, 45))


class TestDraws:
    AUGMENT = Augment(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, degrees=5, rotation_prob=0.3)

    def draws(self, augment: Augment) -> list[Change]:
        return [draw_change(augment, 42, step, position) for step in range(500) for position in range(2)]

    def test_they_fill_their_ranges(self) -> None:
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

    def test_the_stated_share_is_turned_within_the_angle(self) -> None:
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

    def test_no_augmentation_draws_nothing(self) -> None:
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


def test_it_is_cut_and_mirrored_as_the_image_is(left_half: ImageRow) -> None:
    enlarged = Crop(32, 0, True, Shape(64, 64))
    with Image.open(left_half.source) as image:  # type: ignore[arg-type]
        wide = Image.new("RGBA", (96, 64))
        wide.paste(image, (0, 0))
        wide.save(left_half.source)  # type: ignore[arg-type]
    assert mask_of(left_half, "alpha", enlarged, 8, 8).sum() == 0
    assert mask_of(left_half, "alpha", Crop(16, 0, True, Shape(64, 64)), 8, 8)[0, 0].tolist() == [0] * 6 + [1] * 2


def test_it_is_turned_as_the_image_is(left_half: ImageRow) -> None:
    turned = mask_of(left_half, "alpha", SQUARE, 64, 64, Change(degrees=30))[0]
    assert turned[0].sum() < turned[63].sum()  # counter-clockwise: the left half sinks to the lower right
    assert turned.mean().item() == pytest.approx(0.5, abs=0.02)


def test_an_image_without_alpha_counts_whole(tmp_path: Path) -> None:
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
