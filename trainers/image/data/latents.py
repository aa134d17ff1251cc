"""VAE moments and loss masks of crops: kept in the host's cache, or made when a draw wants them."""

# C channels, H height, W width (of latents)

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from trainers.core.cache import Store, Tensors, cache_key, weights_digest
from trainers.core.encoding_cache import EncodingCache
from trainers.image.data.augment import UNCHANGED, Change
from trainers.image.data.framing import Framing, View, view_of
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.masks import MaskKind, mask_of, mask_source
from trainers.image.data.pixels import Crop, pixels
from trainers.image.data.sources import source_sha256
from trainers.image.models.base import Base
from trainers.image.models.families import family_module


class Latents:
    """[row] is the place in `images`. The VAE sees one image at a time: a batch would change the last bits."""

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
        """What is kept: "latents", and "masks" where they are asked for."""

    def keep(self, encoding_cache: EncodingCache) -> bool:
        """Encodes every crop that the cache does not hold. False: a stop was wanted meanwhile."""
        places = [(row, crop) for row, view in enumerate(self.views) for crops in view.crops for crop in crops]
        vae = weights_digest(self._base.vae)
        self._keys = {place: self._moments_key(*place, vae) for place in places}
        work = {key: partial(self._encoded, *place, UNCHANGED) for place, key in self._keys.items()}
        moments = encoding_cache.keep("latents", "encoding images", work)
        if moments is None:
            return False
        self.stores["latents"] = moments
        return self._mask is None or self._keep_masks(encoding_cache, places)

    def moments(self, row: int, crop: Crop, change: Change = UNCHANGED) -> Tensor:
        """Mean and log-variance of the posterior, fp32, unscaled: (2, C, H, W)."""
        if "latents" in self.stores and change == UNCHANGED:
            return self.stores["latents"][self._keys[row, crop]]["moments"]
        return self._encoded(row, crop, change)["moments"].cpu()

    def mask(self, row: int, crop: Crop, change: Change = UNCHANGED) -> Tensor | None:
        """mask_1HW in [0, 1] in latent resolution; None where no masks are asked for."""
        if self._mask is None:
            return None
        if "masks" in self.stores and change == UNCHANGED:
            return self.stores["masks"][self._mask_keys[row, crop]]["mask"]
        return self._masked(row, crop, change)["mask"]

    def _keep_masks(self, encoding_cache: EncodingCache, places: Sequence[tuple[int, Crop]]) -> bool:
        self._mask_keys = {place: self._mask_key(*place) for place in places}
        work = {key: partial(self._masked, *place, UNCHANGED) for place, key in self._mask_keys.items()}
        masks = encoding_cache.keep("masks", "reading masks", work)
        if masks is None:
            return False
        self.stores["masks"] = masks
        return True

    def _encoded(self, row: int, crop: Crop, change: Change) -> Tensors:
        pixels_CHW = pixels(self._images[row], crop, interpolation=self._framing.interpolation, change=change)
        mean_BCHW, logvar_BCHW = family_module(self._base.family).encode_image(self._base, pixels_CHW[None])
        return {"moments": torch.stack([mean_BCHW[0], logvar_BCHW[0]])}

    def _masked(self, row: int, crop: Crop, change: Change) -> Tensors:
        assert self._mask
        height, width = (side // self._pixels_per_latent for side in (crop.shape.height, crop.shape.width))
        return {"mask": mask_of(self._images[row], self._mask, crop, height, width, change)}

    @property
    def _pixels_per_latent(self) -> int:
        return int(2 ** (len(self._base.vae.config.block_out_channels) - 1))

    def _moments_key(self, row: int, crop: Crop, vae: str) -> str:
        interpolation = self._framing.interpolation
        return cache_key(image=self._sha256[row], crop=_plain(crop), interpolation=interpolation, vae=vae)

    def _mask_key(self, row: int, crop: Crop) -> str:
        assert self._mask
        image, source = self._images[row], mask_source(self._images[row], self._mask)
        digest = source and (self._sha256[row] if source == image.source else source_sha256(source))
        return cache_key(
            mask=digest, kind=self._mask, image=self._sha256[row], crop=_plain(crop), side=self._pixels_per_latent
        )


def _plain(crop: Crop) -> list[int]:
    return [crop.left, crop.top, int(crop.flip), *crop.shape]
