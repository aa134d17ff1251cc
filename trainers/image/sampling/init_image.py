"""The image and the mask that a sampling job starts from, of the size that is drawn."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image, ImageOps

from formats.images import IMAGE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.sample_image import MAX_SIDE, SampleImageParams
from trainers.image.data.pixels import decoded_by, to_rgb
from trainers.image.sampling.sampler import Start

NAMED = 5
"""How many files of the dataset an error names."""


class Size(NamedTuple):
    width: int
    height: int


def start_read(dataset: Path, params: SampleImageParams, multiple: int) -> Start | None:
    """`input_image` and `mask_image`, cut centrally and resized to the size of the drawing; None without an image.

    Raises TrainerError that names the file that is missing, unreadable, or of another size than the other.
    """
    if params.input_image is None:
        return None
    image = _opened(dataset, "input_image", params.input_image)
    width, height = (_own(side, image, multiple) for side in image.size)
    size = Size(params.width or width, params.height or height)
    mask = None
    if params.mask_image is not None:
        mask = _opened(dataset, "mask_image", params.mask_image).convert("L")
        if mask.size != image.size:
            raise TrainerError(
                ReasonCode.BAD_DATASET,
                f"mask_image {params.mask_image} has {mask.width} x {mask.height} pixels, "
                f"but input_image {params.input_image} has {image.width} x {image.height}; they must be equal",
            )
        mask = _fitted(mask, size)
    return Start(_fitted(image, size), params.start_strength, mask)


def _own(side: int, image: Image.Image, multiple: int) -> int:
    """A side of the image itself, made small enough to be drawn."""
    shrunk = side * min(1.0, MAX_SIDE / max(image.size))
    return max(multiple, int(shrunk) // multiple * multiple)


def _fitted(image: Image.Image, size: Size) -> Image.Image:
    return ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def _opened(dataset: Path, parameter: str, name: str) -> Image.Image:
    """8-bit RGB, upright; transparency becomes white."""
    parts = PurePosixPath(name).parts
    path = dataset.joinpath(*parts)
    if name.startswith("/") or ".." in parts or not path.is_file():
        found = sorted(str(p.relative_to(dataset)) for p in dataset.rglob("*") if p.suffix.lower() in IMAGE_ENDINGS)
        more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"{parameter}={name!r} is no file of the dataset; it has {', '.join(found[:NAMED]) or 'no images'}{more}",
        )
    return decoded_by(to_rgb, path, f"{parameter} {name}")
