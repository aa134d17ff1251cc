"""Shapes that images are brought to: squares, or rectangles of about as many pixels that fit them better."""

import math
from typing import NamedTuple

WIDEST_STEP = 64
STEPS_PER_SIDE = 8
"""Sides differ by about an eighth of the resolution: 64 pixels at 512 and more, 32 at 256."""
LONGEST = 2
"""A side is at most so many times the resolution, and at least the resolution through it: 4:1 is the thinnest."""


class Shape(NamedTuple):
    """Pixels."""

    width: int
    height: int


def shapes_of(resolution: int, multiple: int) -> list[Shape]:
    """All shapes of at most resolution x resolution pixels, from the tallest to the widest; one is the square."""
    step = max(multiple, min(WIDEST_STEP, 2 ** int(math.log2(resolution / STEPS_PER_SIDE))))
    found = {Shape(resolution, resolution)}
    for side in range(math.ceil(resolution / LONGEST / step) * step, resolution, step):
        other = min(resolution**2 // side, LONGEST * resolution) // step * step
        found |= {Shape(side, other), Shape(other, side)}
    return sorted(found)


def shape_for(width: int, height: int, shapes: list[Shape]) -> Shape:
    """The shape whose aspect is nearest to that of an image, as a ratio; the larger one where two are as near."""
    aspect = math.log(width / height)
    return min(shapes, key=lambda shape: (abs(math.log(shape.width / shape.height) - aspect), -shape.width, shape))


def cropped_share(width: int, height: int, shape: Shape) -> float:
    """Share of an image's area that is cropped away when it covers the shape."""
    scale = max(shape.width / width, shape.height / height)
    return max(0.0, 1 - shape.width * shape.height / (width * scale * height * scale))
