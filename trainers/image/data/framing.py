"""The shape that each image is resized and cropped to, and the crops and flips that a draw chooses from.

Shapes are squares, or rectangles of about as many pixels (aspect-ratio buckets).
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from formats.images import MAX_PIXELS
from trainers.core.noise import Purpose, uniform
from trainers.image.data.decoding import image_size
from trainers.image.data.image_rows import ImageRow, bad_dataset

MAX_STEP = 64
STEPS_PER_SIDE = 8
"""Sides differ by about an eighth of the resolution: 64 pixels at 512 and more, 32 at 256."""
MAX_STRETCH = 2
"""A side is at most the resolution times this, and at least the resolution divided by it: 4:1 is the thinnest."""
CROPS = 4
"""Places per image that a random crop is chosen from: each is encoded once."""
Interpolation = Literal["lanczos", "bilinear", "bicubic", "nearest"]


class Shape(NamedTuple):
    """Pixels."""

    width: int
    height: int


class Crop(NamedTuple):
    """A place in the image, in pixels after the resize that makes it cover `shape`."""

    left: int
    top: int
    flip: bool
    shape: Shape

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.left, self.top, self.left + self.shape.width, self.top + self.shape.height


@dataclass(frozen=True)
class Framing:
    shapes: tuple[Shape, ...]
    """One for squares; several are aspect-ratio buckets."""
    interpolation: Interpolation
    center_crop: bool
    random_flip: bool


@dataclass(frozen=True)
class View:
    """The crops of one image."""

    original: Shape
    """Before the resize, EXIF orientation applied."""
    resized: Shape
    """Just covers the shape."""
    shape: Shape
    crops: list[list[Crop]]
    """[flip][place]."""

    def sizes(self, crop: Crop) -> tuple[int, int, int, int, int, int]:
        """SDXL's time ids: original height and width; top and left of the crop, in the mirrored image if the crop is
        mirrored; height and width of the crop."""
        left = self.resized.width - self.shape.width - crop.left if crop.flip else crop.left
        return (self.original.height, self.original.width, crop.top, left, self.shape.height, self.shape.width)


def view_of(image: ImageRow, framing: Framing, sha256: str) -> View:
    """The places depend on the image's content (`sha256`) alone, so that jobs share the cache."""
    width, height = image_size(image)
    shape = shape_for(width, height, list(framing.shapes))
    resized = resized_size(image, shape)
    spare_x, spare_y = resized.width - shape.width, resized.height - shape.height

    def place(index: int) -> tuple[int, int]:
        if framing.center_crop:
            return spare_x // 2, spare_y // 2
        x, y = (uniform(int(sha256[:16], 16), Purpose.CROP_PLACE, index, axis) for axis in (0, 1))
        return int(x * (spare_x + 1)), int(y * (spare_y + 1))

    places = [place(index) for index in range(1 if framing.center_crop else CROPS)]
    flips = (False, True) if framing.random_flip else (False,)
    crops = [[Crop(left, top, flip, shape) for left, top in places] for flip in flips]
    return View(Shape(width, height), resized, shape, crops)


def resized_size(row: ImageRow, shape: Shape) -> Shape:
    """Size, EXIF orientation applied, at which the image just covers `shape`; reads only the header."""
    width, height = image_size(row)
    scale = max(shape.width / width, shape.height / height)
    resized = Shape(max(shape.width, round(width * scale)), max(shape.height, round(height * scale)))
    if math.prod(resized) > MAX_PIXELS:
        raise bad_dataset(
            f"{row.where}: {width} x {height} becomes {resized.width} x {resized.height} to cover "
            f"{shape.width} x {shape.height}; expected at most {MAX_PIXELS} pixels"
        )
    return resized


def shapes_of(resolution: int, multiple: int) -> list[Shape]:
    """All shapes of at most resolution x resolution pixels, from the tallest to the widest; one is the square."""
    step = max(multiple, min(MAX_STEP, 2 ** int(math.log2(resolution / STEPS_PER_SIDE))))
    shapes = {Shape(resolution, resolution)}
    for side in range(math.ceil(resolution / MAX_STRETCH / step) * step, resolution, step):
        other = min(resolution**2 // side, MAX_STRETCH * resolution) // step * step
        shapes |= {Shape(side, other), Shape(other, side)}
    return sorted(shapes)


def shape_for(width: int, height: int, shapes: list[Shape]) -> Shape:
    """The shape with the aspect ratio closest to the image's; of two equally close ones the larger."""
    aspect = math.log(width / height)
    return min(shapes, key=lambda shape: (abs(math.log(shape.width / shape.height) - aspect), -shape.width, shape))


def cropped_share(width: int, height: int, shape: Shape) -> float:
    """Share of an image's area that is cropped away if it covers the shape."""
    scale = max(shape.width / width, shape.height / height)
    return max(0.0, 1 - shape.width * shape.height / (width * scale * height * scale))
