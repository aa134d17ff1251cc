"""Colour jitter and rotation against closed forms."""

import numpy as np
import pytest
from PIL import Image

from trainers.image.data.crops import UNCHANGED, Augment, Change, cover_zoom, draw_change, jitter, rotated_crop

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
        found = jitter(halves, Change(contrast=0.5))
        assert [found.getpixel((x, 0)) for x in (0, 3)] == [(175, 175, 175), (125, 125, 125)]

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
        whole = rotated_crop(image, (0, 0, 80, 60), 7, NEAREST)
        assert rotated_crop(image, (10, 5, 50, 45), 7, NEAREST) == whole.crop((10, 5, 50, 45))


class TestDraws:
    AUGMENT = Augment(brightness=0.1, contrast=0.2, saturation=0.3, hue=0.05, degrees=5, rotation_prob=0.3)

    def draws(self, augment: Augment) -> list[Change]:
        return [draw_change(augment, 42, step, position) for step in range(500) for position in range(2)]

    def test_they_fill_their_ranges(self) -> None:
        found = self.draws(self.AUGMENT)
        for name, middle, span in (
            ("brightness", 1, 0.1),
            ("contrast", 1, 0.2),
            ("saturation", 1, 0.3),
            ("hue", 0, 0.05),
        ):
            values = [getattr(change, name) for change in found]
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
