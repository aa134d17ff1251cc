"""The image and the mask that a sampling job starts from, of the size that is drawn."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, ImageOps

from formats.images import IMAGE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.sample_image import MAX_SIDE, SampleImageParams
from trainers.image.data.decoding import decode_with, to_rgb
from trainers.image.sampling.sampler import InitImage

MAX_NAMES = 5
"""Files of the dataset that an error lists."""


class Size(NamedTuple):
    width: int
    height: int


def init_image_read(dataset: Path, params: SampleImageParams, multiple: int) -> InitImage | None:
    """`input_image` and `mask_image`, center-cropped and resized to the size that is drawn; None without an image.

    Raises TrainerError that names the file if it is missing or unreadable, or if the two differ in size.
    """
    if params.input_image is None:
        return None
    image = _open(dataset, "input_image", params.input_image)
    width, height = (_default_side(side, image, multiple) for side in image.size)
    size = Size(params.width or width, params.height or height)
    mask = None
    if params.mask_image is not None:
        mask = _open(dataset, "mask_image", params.mask_image).convert("L")
        if mask.size != image.size:
            raise TrainerError(
                ReasonCode.BAD_DATASET,
                f"mask_image {params.mask_image} has {mask.width} x {mask.height} pixels, "
                f"but input_image {params.input_image} has {image.width} x {image.height}; they must be equal",
            )
        mask = _fit(mask, size)
    return InitImage(_fit(image, size), params.start_strength, mask)


def _default_side(side: int, image: Image.Image, multiple: int) -> int:
    """The image's own side, scaled down to what can be drawn."""
    shrunk = side * min(1.0, MAX_SIDE / max(image.size))
    return max(multiple, int(shrunk) // multiple * multiple)


def _fit(image: Image.Image, size: Size) -> Image.Image:
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _open(dataset: Path, parameter: str, name: str) -> Image.Image:
    """8-bit RGB, upright; transparency becomes white."""
    parts = PurePosixPath(name).parts
    path = dataset.joinpath(*parts)
    if name.startswith("/") or ".." in parts or not path.is_file():
        names = sorted(str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        listed = ", ".join(names[:MAX_NAMES]) or "no images"
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"{parameter}={name!r} is not a file of the dataset; it has {listed}{more}",
        )
    return decode_with(to_rgb, path, f"{parameter} {name}")
