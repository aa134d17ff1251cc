"""Rule-based measures of a 64 x 64 image: colours by distance, shape and place by geometry.

Fixed before training started. Pure numpy; images are (H, W, 3) uint8.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from examples.shapes.draw import BACKGROUNDS, COLOURS, SHAPES, SIDE, field
from examples.shapes.draw_style import NAVY

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
GRID = 24
MIN_PIXELS = 25
LARGE_FROM_PIXELS = 21
WHITISH_FROM = 120


@dataclass(frozen=True)
class Reading:
    """What the image shows; "none" where nothing stands out from the ground."""

    colour: str
    shape: str
    place: str
    size: str
    background: str


def read_image(image: Pixels) -> Reading:
    """Names colour, shape, place, size and background of the image."""
    ground = ground_colour(image)
    background = nearest(ground, BACKGROUNDS)
    colour = foreground_colour(image, ground)
    if colour is None:
        return Reading("none", "none", "none", "none", background)
    mask = foreground_mask(image, ground, colour)
    if mask.sum() < MIN_PIXELS:
        return Reading("none", "none", "none", "none", background)
    top, bottom, left, right = bounding_box(mask)
    size = "large" if (bottom - top + right - left) / 2 >= LARGE_FROM_PIXELS else "small"
    place = f"{'top' if top + bottom < SIDE else 'bottom'} {'left' if left + right < SIDE else 'right'}"
    return Reading(nearest(colour, COLOURS), shape_of(mask), place, size, background)


def ground_colour(image: Pixels) -> NDArray[np.float64]:
    """(3,) median of the outermost two pixels."""
    p = image.astype(np.float64)
    border = np.concatenate(
        [p[:2].reshape(-1, 3), p[-2:].reshape(-1, 3), p[:, :2].reshape(-1, 3), p[:, -2:].reshape(-1, 3)]
    )
    return np.asarray(np.median(border, axis=0))


def foreground_colour(image: Pixels, ground: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(3,) median of the pixels at least 60% as far from the ground as the farthest ones; None for an empty image."""
    distance = distances(image, ground)
    far = np.sort(distance, axis=None)[-MIN_PIXELS:].mean()
    if far < 60:
        return None
    return np.asarray(np.median(image[distance > 0.6 * far].astype(np.float64), axis=0))


def foreground_mask(image: Pixels, ground: NDArray[np.float64], colour: NDArray[np.float64]) -> Mask:
    """(H, W) pixels that lie nearer to the colour than to the ground."""
    return distances(image, colour) < distances(image, ground)


def bounding_box(mask: Mask) -> tuple[int, int, int, int]:
    """(top, bottom, left, right), ends excluded; lines with a single pixel are left out as specks."""
    rows, columns = np.flatnonzero(mask.sum(1) > 1), np.flatnonzero(mask.sum(0) > 1)
    if not len(rows) or not len(columns):
        return 0, SIDE, 0, SIDE
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def shape_of(mask: Mask) -> str:
    """The shape whose drawn template overlaps best (intersection over union) in the bounding box."""
    grid = box_grid(mask)
    return max(SHAPES, key=lambda name: overlap(grid, template(name)))


def box_grid(mask: Mask) -> Mask:
    """(24, 24) the bounding box, resampled to a fixed grid."""
    top, bottom, left, right = bounding_box(mask)
    steps = (np.arange(GRID) + 0.5) / GRID
    rows = (top + steps * (bottom - top)).astype(int)
    columns = (left + steps * (right - left)).astype(int)
    return np.asarray(mask[np.ix_(rows, columns)])


@cache
def template(shape: str) -> Mask:
    return box_grid(field(shape, SIDE / 2, SIDE / 2, 24.0) < 0)


def overlap(a: Mask, b: Mask) -> float:
    return float((a & b).sum() / max((a | b).sum(), 1))


def shows_style(image: Pixels) -> bool:
    """A navy ground, and at least 1% of the image whitish: no colour of the base's shapes has three high channels."""
    navy_ground = np.linalg.norm(ground_colour(image) - np.array(NAVY)) < 45
    whitish_share = (image.min(axis=-1) >= WHITISH_FROM).mean()
    return bool(navy_ground and whitish_share >= 0.01)


def distances(image: Pixels, colour: NDArray[np.float64]) -> NDArray[np.float64]:
    """(H, W) Euclidean distance in RGB."""
    return np.asarray(np.linalg.norm(image.astype(np.float64) - colour, axis=-1))


def nearest(colour: NDArray[np.float64], palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: float(np.linalg.norm(colour - np.array(palette[name]))))
