"""The encoded dataset of an `image_lora` job: VAE moments, loss masks and text embeddings, cached or fresh."""

# C channels, H height, W width (of latents)

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from trainers.core.cache import EncodingCache, Store, Tensors, cache_key, stores_digest, weights_digest
from trainers.image.data.framing import (
    UNCHANGED,
    Change,
    Crop,
    Framing,
    MaskKind,
    View,
    mask_of,
    mask_source,
    pixels,
    view_of,
)
from trainers.image.data.image_rows import ImageRow, source_sha256
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import encode_image, image_family
from trainers.image.models.text_encoders import Text

TextKind = Literal["cached", "fresh", "ids"]
"""cached: each text is embedded once; fresh: at every draw; ids: by the objective, since the encoder is trained."""

IMAGE_KEY = "picture"
"""Name of the image's digest in cache keys: it stays, so that caches of earlier versions stay valid."""


class CaptionedImage(NamedTuple):
    """One image with the texts that a draw chooses from, trigger word included."""

    image: ImageRow
    texts: Sequence[str]
    of_class: bool = False
    """A class image of prior preservation: its caption is never dropped, and it has no mask."""


@dataclass(frozen=True)
class Encoding:
    """How images and captions are encoded, and when."""

    framing: Framing
    cache_latents: bool
    """Encode every crop once, before the training; else at each draw."""
    text: TextKind
    text_settings: TextSettings
    mask: MaskKind | None


@dataclass(frozen=True)
class Examples:
    rows: Sequence[CaptionedImage]
    latents: "Latents"
    texts: "Texts"
    encoding: Encoding

    @property
    def needs_vae(self) -> bool:
        """Whether draws encode images."""
        return not self.encoding.cache_latents

    @property
    def needs_text_encoders(self) -> bool:
        """Whether draws, or the objective, embed texts."""
        return self.encoding.text != "cached"

    def digest(self) -> str:
        """Digest of everything that is cached."""
        return stores_digest(self.latents.stores | self.texts.stores)


def examples_encode(
    base: Base,
    rows: Sequence[CaptionedImage],
    encoding: Encoding,
    *,
    further_texts: Sequence[str],
    encoding_cache: EncodingCache,
) -> Examples | None:
    """Encodes what the cache lacks, one item at a time, so that no bit depends on neighbours. None: stopped."""
    latents = Latents(base, [row.image for row in rows], encoding.framing, encoding.mask)
    if encoding.cache_latents and not latents.encode_all(encoding_cache):
        return None
    texts = [*(text for row in rows for text in row.texts), *further_texts]
    embeddings = Texts(base, texts, encoding.text, encoding.text_settings)
    return Examples(rows, latents, embeddings, encoding) if embeddings.encode_all(encoding_cache) else None


class Latents:
    """Indexed by the place in `images`. The VAE encodes one image at a time: a batch would change the last bits."""

    def __init__(self, base: Base, images: Sequence[ImageRow], framing: Framing, mask: MaskKind | None) -> None:
        self._base = base
        self._images = images
        self._framing = framing
        self._mask = mask
        self._sha256 = [image.sha256() for image in images]
        self.views: list[View] = [
            view_of(image, framing, sha256) for image, sha256 in zip(images, self._sha256, strict=True)
        ]
        self.stores: dict[str, Store] = {}
        """The cached tensors: "latents", and "masks" for a masked loss."""

    def encode_all(self, encoding_cache: EncodingCache) -> bool:
        """Encodes every crop that the cache lacks. False: a stop was requested meanwhile."""
        places = [(row, crop) for row, view in enumerate(self.views) for crops in view.crops for crop in crops]
        vae = weights_digest(self._base.vae)
        self._keys = {place: self._moments_key(*place, vae) for place in places}
        work = {key: partial(self._encode, *place, UNCHANGED) for place, key in self._keys.items()}
        moments = encoding_cache.keep("latents", "encoding images", work)
        if moments is None:
            return False
        self.stores["latents"] = moments
        return self._mask is None or self._encode_masks(encoding_cache, places)

    def moments(self, row: int, crop: Crop, change: Change = UNCHANGED) -> Tensor:
        """Mean and log-variance of the posterior, fp32, unscaled: (2, C, H, W)."""
        if "latents" in self.stores and change == UNCHANGED:
            return self.stores["latents"][self._keys[row, crop]]["moments"]
        return self._encode(row, crop, change)["moments"].cpu()

    def mask(self, row: int, crop: Crop, change: Change = UNCHANGED) -> Tensor | None:
        """mask_1HW in [0, 1] in latent resolution; None without a masked loss."""
        if self._mask is None:
            return None
        if "masks" in self.stores and change == UNCHANGED:
            return self.stores["masks"][self._mask_keys[row, crop]]["mask"]
        return self._read_mask(row, crop, change)["mask"]

    def _encode_masks(self, encoding_cache: EncodingCache, places: Sequence[tuple[int, Crop]]) -> bool:
        self._mask_keys = {place: self._mask_key(*place) for place in places}
        work = {key: partial(self._read_mask, *place, UNCHANGED) for place, key in self._mask_keys.items()}
        masks = encoding_cache.keep("masks", "reading masks", work)
        if masks is None:
            return False
        self.stores["masks"] = masks
        return True

    def _encode(self, row: int, crop: Crop, change: Change) -> Tensors:
        pixels_CHW = pixels(self._images[row], crop, interpolation=self._framing.interpolation, change=change)
        mean_BCHW, logvar_BCHW = encode_image(self._base, pixels_CHW[None])
        return {"moments": torch.stack([mean_BCHW[0], logvar_BCHW[0]])}

    def _read_mask(self, row: int, crop: Crop, change: Change) -> Tensors:
        assert self._mask
        height, width = (side // self._pixels_per_latent for side in (crop.shape.height, crop.shape.width))
        return {"mask": mask_of(self._images[row], self._mask, crop, height, width, change)}

    @property
    def _pixels_per_latent(self) -> int:
        return int(2 ** (len(self._base.vae.config.block_out_channels) - 1))

    def _moments_key(self, row: int, crop: Crop, vae: str) -> str:
        interpolation = self._framing.interpolation
        image = {IMAGE_KEY: self._sha256[row]}
        return cache_key(**image, crop=_crop_values(crop), interpolation=interpolation, vae=vae)

    def _mask_key(self, row: int, crop: Crop) -> str:
        assert self._mask
        image, source = self._images[row], mask_source(self._images[row], self._mask)
        digest = source and (self._sha256[row] if source == image.source else source_sha256(source))
        image_key = {IMAGE_KEY: self._sha256[row]}
        return cache_key(
            **image_key, mask=digest, kind=self._mask, crop=_crop_values(crop), side=self._pixels_per_latent
        )


def _crop_values(crop: Crop) -> list[int]:
    return [crop.left, crop.top, int(crop.flip), *crop.shape]


class Texts:
    """All texts that a job may draw. They are tokenized once, here: tokenizers are not thread-safe."""

    def __init__(self, base: Base, texts: Sequence[str], kind: TextKind, settings: TextSettings) -> None:
        self._base = base
        self._kind = kind
        self._settings = settings
        self._family = image_family(base.family)
        distinct = list(dict.fromkeys(texts))
        self._ids = dict(zip(distinct, self._family.tokenize(base, distinct, settings), strict=True))
        self.stores: dict[str, Store] = {}
        """The cached tensors: "text"."""

    def encode_all(self, encoding_cache: EncodingCache) -> bool:
        """Embeds every text that the cache lacks. False: a stop was requested meanwhile."""
        if self._kind != "cached":
            return True
        encoders = [weights_digest(encoder) for encoder in self._base.text_encoders]
        self._keys = {text: self._key(ids, encoders) for text, ids in self._ids.items()}
        work = {key: partial(self._embed, text) for text, key in self._keys.items()}
        embeddings = encoding_cache.keep("embeddings", "encoding captions", work)
        if embeddings is not None:
            self.stores["text"] = embeddings
        return embeddings is not None

    def __getitem__(self, text: str) -> Text:
        """Without a batch axis, on the CPU."""
        if self._kind == "ids":
            return self._ids[text]
        return self.stores["text"][self._keys[text]] if self.stores else self._embed(text)

    @torch.no_grad()
    def _embed(self, text: str) -> Text:
        ids = {name: value[None] for name, value in self._ids[text].items()}
        return {name: value[0].cpu() for name, value in self._family.embed(self._base, ids, self._settings).items()}

    def _key(self, ids: Text, encoders: Sequence[str]) -> str:
        tokens = {name: value.tolist() for name, value in ids.items()}
        return cache_key(tokens=tokens, encoders=list(encoders), settings=asdict(self._settings))
