"""Where images are cut: the shape that each is brought to, and the places and flips that a draw chooses from."""

from dataclasses import dataclass

from trainers.core.noise import Purpose, uniform
from trainers.image.data.buckets import Shape, shape_for
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.pixels import Crop, Interpolation, image_size, resized_size

CROPS = 4
"""Places that a random crop is chosen from, per image: each is encoded once."""


@dataclass(frozen=True)
class Framing:
    shapes: tuple[Shape, ...]
    """One for squares; several are aspect-ratio buckets."""
    interpolation: Interpolation
    center_crop: bool
    random_flip: bool


@dataclass(frozen=True)
class View:
    """How an image may be seen."""

    original: Shape
    """Before the resize, EXIF orientation applied."""
    resized: Shape
    """Just covers the shape."""
    shape: Shape
    crops: list[list[Crop]]
    """[flip][place]."""

    def sizes(self, crop: Crop) -> tuple[int, int, int, int, int, int]:
        """SDXL's time ids: original height and width; top and left of the crop, in the mirrored image where the crop
        is mirrored; height and width of the crop."""
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
