"""Masks of masked_loss: where they come from, and that they go wherever the image goes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from trainers.contract.errors import TrainerError
from trainers.image.data.crops import Change, mask_of, mask_source
from trainers.image.data.framing import Crop, Shape
from trainers.image.data.image_rows import ImageRow

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
