"""From a file to the square that is trained on."""

import math
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from trainers.data.images import Picture, bad_dataset

MAX_PIXELS = 64_000_000
"""A picture of more pixels is refused before it is decoded."""
TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""
ORIENTATION = 0x0112
Interpolation = Literal["lanczos", "bilinear", "bicubic", "nearest"]
FILTERS: dict[str, Image.Resampling] = {
    "lanczos": Image.Resampling.LANCZOS,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


class Crop(NamedTuple):
    """A square of `resolution` pixels, measured after the resize."""

    left: int
    top: int
    flip: bool


def resized_size(picture: Picture, resolution: int) -> tuple[int, int]:
    """(width, height) as seen once the shorter side is `resolution`; only the file's header is read."""
    width, height = picture_size(picture)
    scale = resolution / min(width, height)
    resized = max(resolution, round(width * scale)), max(resolution, round(height * scale))
    if math.prod(resized) > MAX_PIXELS:
        raise bad_dataset(
            f"{picture.where}: {width} x {height} becomes {resized[0]} x {resized[1]} at resolution {resolution}; "
            f"expected at most {MAX_PIXELS} pixels"
        )
    return resized


def picture_size(picture: Picture) -> tuple[int, int]:
    """(width, height) as seen, EXIF orientation applied; only the header is read."""
    with _opened(picture) as image:
        width, height = image.size
        try:
            turned = image.getexif().get(ORIENTATION) in TURNED
        except (OSError, SyntaxError, ValueError) as error:
            raise bad_dataset(f"{picture.where} has EXIF data that cannot be read: {error}") from error
    return (height, width) if turned else (width, height)


def pixels(picture: Picture, crop: Crop, *, resolution: int, interpolation: Interpolation) -> Tensor:
    """pixels_CHW of the crop, fp32 in [-1, 1]. TrainerError BAD_DATASET names the picture."""
    image = _resized(picture, picture.path.stat().st_mtime_ns, resolution, interpolation)
    image = image.crop((crop.left, crop.top, crop.left + resolution, crop.top + resolution))
    if crop.flip:
        image = ImageOps.mirror(image)
    return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1


@lru_cache(maxsize=1)
def _resized(picture: Picture, _changed: int, resolution: int, interpolation: Interpolation) -> Image.Image:
    """Kept for the next crop of the same picture: decoding costs more than cropping."""
    return decoded(picture).resize(resized_size(picture, resolution), FILTERS[interpolation])


def decoded(picture: Picture) -> Image.Image:
    """8-bit RGB: EXIF orientation applied, 16 bits scaled to 8, transparency laid on white."""
    try:
        with _opened(picture) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except (OSError, SyntaxError, ValueError) as error:
        raise bad_dataset(f"{picture.where} cannot be decoded: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """ValueError: a mode whose range is not known."""
    if image.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating point")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError(f"expected values of 16 bits, got {grey.min()}..{grey.max()}")
        return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _opened(picture: Picture) -> Image.Image:
    """Header only; refused where it promises too many pixels."""
    try:
        image = Image.open(picture.path)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise bad_dataset(f"{picture.where} cannot be read as a picture: {_plain(error, picture.path)}") from error
    if math.prod(image.size) > MAX_PIXELS:
        raise bad_dataset(f"{picture.where}: expected at most {MAX_PIXELS} pixels, got {image.width} x {image.height}")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # what phones write: the picture, then a preview
        raise bad_dataset(f"{picture.where}: expected a still picture, got {frames} frames")
    return image


def _plain(error: Exception, path: Path) -> str:
    """PIL's message without the worker's folders."""
    return str(error).replace(str(path), path.name)
