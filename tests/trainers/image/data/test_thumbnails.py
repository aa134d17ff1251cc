"""A thumbnail shows what a trainer will see: the API decodes without numpy, so both ways are compared."""

import numpy as np
import pytest
from PIL import Image

from api.catalog.checking.decode import MAX_PIXELS, small_rgb
from trainers.image.data import pixels
from trainers.image.data.decoding import to_rgb


def grey16() -> Image.Image:
    return Image.fromarray(np.arange(256 * 4, dtype=np.uint16).reshape(4, 256) * 64)


def transparent(mode: str) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (32, 48, 4), dtype=np.uint8)
    return Image.fromarray(noise, "RGBA").convert(mode)


@pytest.mark.parametrize("mode", ["I;16", "I", "RGBA", "LA", "L", "1", "P", "CMYK", "RGB"])
def test_a_small_image_is_what_the_trainer_sees(mode: str) -> None:
    image = grey16().convert("I") if mode == "I" else grey16() if mode == "I;16" else transparent(mode)
    difference = np.asarray(small_rgb(image), np.int32) - np.asarray(to_rgb(image), np.int32)
    assert np.abs(difference).max() <= 1


def test_both_refuse_the_same_sizes() -> None:
    assert MAX_PIXELS == pixels.MAX_PIXELS
