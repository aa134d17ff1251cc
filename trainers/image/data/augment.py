"""Colour jitter and rotation: drawn for each sample of a step, applied to what was cropped.

A turned image is enlarged about its centre until its corners lie outside the frame, so that no border shows.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image, ImageEnhance

from trainers.core.noise import Purpose, stream

HUES = 256
"""Steps of PIL's hue circle."""


@dataclass(frozen=True)
class Augment:
    """How far a sample may be changed; each colour value is the half width of its range."""

    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """Share of the colour circle."""
    degrees: float = 0.0
    rotation_prob: float = 0.0

    @property
    def jitters(self) -> bool:
        return any((self.brightness, self.contrast, self.saturation, self.hue))

    @property
    def turns(self) -> bool:
        return self.degrees > 0 and self.rotation_prob > 0


class Change(NamedTuple):
    """How one sample is changed."""

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0
    """Share of the colour circle, positive from red towards green."""
    degrees: float = 0.0
    """Counter-clockwise."""


UNCHANGED = Change()


def draw_change(augment: Augment, seed: int, step: int, position: int) -> Change:
    """Brightness, contrast and saturation are factors around 1; rotation happens to `rotation_prob` of the samples."""
    change = UNCHANGED
    if augment.jitters:
        spans = (augment.brightness, augment.contrast, augment.saturation)
        draws = stream(seed, Purpose.COLOR, step, position).uniform(-1, 1, 4)
        brightness, contrast, saturation = (1 + s * float(d) for s, d in zip(spans, draws[:3], strict=True))
        change = Change(brightness, contrast, saturation, augment.hue * float(draws[3]))
    if augment.turns:
        coin, angle = (float(draw) for draw in stream(seed, Purpose.ROTATION, step, position).random(2))
        if coin < augment.rotation_prob:
            change = change._replace(degrees=augment.degrees * (2 * angle - 1))
    return change


def jitter(image: Image.Image, change: Change) -> Image.Image:
    """RGB: brightness, contrast around the mean grey, saturation, hue, in this order, each clipped to 8 bits."""
    for enhance, factor in (
        (ImageEnhance.Brightness, change.brightness),
        (ImageEnhance.Contrast, change.contrast),
        (ImageEnhance.Color, change.saturation),
    ):
        if factor != 1:
            image = enhance(image).enhance(factor)
    shift = round(change.hue * HUES)
    if not shift:
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + shift) % HUES for level in range(HUES)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def rotated_crop(image: Image.Image, box: tuple[int, int, int, int], degrees: float, filter_: int) -> Image.Image:
    """`image.crop(box)` of the image turned about its centre and enlarged as little as hides its corners."""
    left, top, right, bottom = box
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    zoom = cover_zoom(image.width, image.height, degrees)
    middle_x, middle_y = image.width / 2, image.height / 2
    a, b = cosine / zoom, -sine / zoom
    x, y = left - middle_x, top - middle_y
    coefficients = (a, b, a * x + b * y + middle_x, -b, a, -b * x + a * y + middle_y)
    return image.transform(
        (right - left, bottom - top), Image.Transform.AFFINE, coefficients, resample=Image.Resampling(filter_)
    )


def cover_zoom(width: int, height: int, degrees: float) -> float:
    """Factor by which a turned width x height image must grow to cover its own frame again."""
    cosine, sine = abs(math.cos(math.radians(degrees))), abs(math.sin(math.radians(degrees)))
    return cosine + sine * max(width / height, height / width)
