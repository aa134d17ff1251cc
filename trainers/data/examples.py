"""The dataset of `image_lora` once its pictures and captions are encoded: VAE moments and text embeddings in memory."""

# B batch, C channels, H height, W width (of latents), L tokens, D text width

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from trainers.control import Control
from trainers.data.cache import cache_key, tensors_cached, tensors_digest, weights_digest
from trainers.data.images import Picture
from trainers.data.pixels import Crop, Interpolation, pixels, resized_size
from trainers.distributed import Processes
from trainers.models import sd1
from trainers.models.base import Base, TextSettings
from trainers.noise import Purpose, uniform
from trainers.tracking import Reporter

CROPS = 4
"""Places that a random crop is chosen from, per picture: each is encoded once."""


@dataclass(frozen=True)
class Framing:
    """How pictures become squares."""

    resolution: int
    interpolation: Interpolation
    center_crop: bool
    random_flip: bool

    @property
    def places(self) -> int:
        return 1 if self.center_crop else CROPS

    @property
    def flips(self) -> int:
        return 2 if self.random_flip else 1

    def crops(self, picture: Picture, sha256: str) -> list[list[Crop]]:
        """Crop of the picture for [flip][place]; the places depend on its content alone, so jobs share the cache."""
        width, height = resized_size(picture, self.resolution)
        spare_x, spare_y = width - self.resolution, height - self.resolution

        def place(index: int) -> tuple[int, int]:
            if self.center_crop:
                return spare_x // 2, spare_y // 2
            x, y = (uniform(int(sha256[:16], 16), Purpose.CROP_PLACE, index, axis) for axis in (0, 1))
            return int(x * (spare_x + 1)), int(y * (spare_y + 1))

        return [[Crop(*place(i), flip=bool(flip)) for i in range(self.places)] for flip in range(self.flips)]


@dataclass(frozen=True)
class Examples:
    """Encoded rows. `moments_2CHW` is the posterior's mean and log-variance, fp32, unscaled."""

    moment_keys: list[list[list[str]]]
    """[row][flip][place] -> key."""
    moments: dict[str, Tensor]
    captions: list[str]
    """[row], trigger word included."""
    embeddings: dict[str, Tensor]
    """By text: (L, D)."""

    def digest(self) -> str:
        return tensors_digest({**self.moments, **{f"text {text}": value for text, value in self.embeddings.items()}})

    def moments_of(self, row: int, flip: int, place: int) -> Tensor:
        return self.moments[self.moment_keys[row][flip][place]]


def caption_with_trigger(trigger_word: str, caption: str) -> str:
    """ "{trigger}, {caption}"; either alone where the other is empty."""
    return ", ".join(part for part in (trigger_word, caption) if part)


def examples_encode(
    base: Base,
    pictures: Sequence[Picture],
    framing: Framing,
    *,
    trigger_word: str,
    further_texts: Sequence[str],
    cache: Path,
    processes: Processes,
    control: Control,
    reporter: Reporter,
) -> Examples | None:
    """Encodes what `cache` does not hold, one item at a time, so that no bit depends on neighbours. None: stopped."""
    captions = [caption_with_trigger(trigger_word, picture.caption) for picture in pictures]
    vae, text_encoder = weights_digest(base.vae), weights_digest(base.text_encoders[0])
    keys, squares = _squares(pictures, framing, vae)

    def encode_square(picture: Picture, crop: Crop) -> Tensor:
        square_CHW = pixels(picture, crop, resolution=framing.resolution, interpolation=framing.interpolation)
        mean_BCHW, logvar_BCHW = sd1.encode_image(base, square_CHW[None])
        return torch.stack([mean_BCHW[0], logvar_BCHW[0]])

    moments = tensors_cached(
        cache / "latents",
        {key: lambda square=square: encode_square(*square) for key, square in squares.items()},  # type: ignore[misc]
        stage="encoding pictures",
        processes=processes,
        control=control,
        reporter=reporter,
    )
    texts = dict.fromkeys([*captions, *further_texts])
    tokens = {text: cache_key(tokens=_token_ids(base, text), encoder=text_encoder) for text in texts}

    def embedded(text: str) -> Tensor:
        return sd1.encode_text(base, [text], TextSettings())[0]["prompt"]

    embeddings = moments and tensors_cached(
        cache / "embeddings",
        {key: lambda text=text: embedded(text) for text, key in tokens.items()},  # type: ignore[misc]
        stage="encoding captions",
        processes=processes,
        control=control,
        reporter=reporter,
    )
    if moments is None or embeddings is None:
        return None
    return Examples(keys, moments, captions, {text: embeddings[key] for text, key in tokens.items()})


def _token_ids(base: Base, text: str) -> list[int]:
    ids: list[int] = base.tokenizers[0](text, truncation=True, max_length=base.tokenizers[0].model_max_length).input_ids
    return ids


def _squares(
    pictures: Sequence[Picture], framing: Framing, vae: str
) -> tuple[list[list[list[str]]], dict[str, tuple[Picture, Crop]]]:
    """Keys by [row][flip][place], and what to encode for each distinct key."""
    squares: dict[str, tuple[Picture, Crop]] = {}
    keys: list[list[list[str]]] = []
    for picture in pictures:
        sha256 = picture.sha256()
        grid = framing.crops(picture, sha256)
        settings = {"resolution": framing.resolution, "interpolation": framing.interpolation, "vae": vae}
        named = [[cache_key(picture=sha256, crop=list(crop), **settings) for crop in row] for row in grid]
        squares |= {
            key: (picture, crop)
            for names, crops in zip(named, grid, strict=True)
            for key, crop in zip(names, crops, strict=True)
        }
        keys.append(named)
    return keys, squares
