"""Guidance as a wrapper around what a network says."""

# B batch, C channels, H height, W width

from collections.abc import Callable

import torch
from torch import Tensor

from trainers.image.models.base import Base
from trainers.image.models.families import family_module
from trainers.image.sampling.prompts import Prompts, text_to

Denoiser = Callable[[Tensor, Tensor], Tensor]
"""(noisy_BCHW, time) -> what the network says of it, fp32, in its shape."""


def guided_denoiser(base: Base, prompts: Prompts, *, guidance_scale: float, guidance_rescale: float) -> Denoiser:
    """What the network says with guidance, of latents in fp32 at one timestep (DDPM) or s (flow).

    With a negative prompt both halves go through the network as one batch: negative + scale (positive - negative)
    (Ho and Salimans 2022), rescaled as in Lin et al. 2024, section 3.4.
    """
    family, device, dtype = family_module(base.family), base.network.device, base.network.dtype
    positive = text_to(prompts.positive, device, dtype)
    text = positive
    if prompts.negative is not None:
        negative = text_to(prompts.negative, device, dtype)
        text = {key: torch.cat([negative[key], positive[key]]) for key in positive}
    copies = 1 if prompts.negative is None else 2

    def says(noisy_BCHW: Tensor, time: Tensor) -> Tensor:
        seen_BCHW = torch.cat([noisy_BCHW] * copies).to(device, dtype)
        times_B = time.to(device).expand(seen_BCHW.shape[0])
        sizes_B6 = _sizes(base, noisy_BCHW).expand(seen_BCHW.shape[0], 6)
        said_BCHW = family.predict(base, seen_BCHW, times_B, text, sizes_B6, guidance_scale).float()
        if copies == 1:
            return said_BCHW
        return guided(*said_BCHW.chunk(2), scale=guidance_scale, rescale=guidance_rescale)

    return says


def guided(negative_BCHW: Tensor, positive_BCHW: Tensor, *, scale: float, rescale: float) -> Tensor:
    found_BCHW = negative_BCHW + scale * (positive_BCHW - negative_BCHW)
    if not rescale:
        return found_BCHW
    factor_B111 = _std(positive_BCHW) / _std(found_BCHW)
    return rescale * (found_BCHW * factor_B111) + (1 - rescale) * found_BCHW


def _std(said_BCHW: Tensor) -> Tensor:
    return said_BCHW.std(dim=(1, 2, 3), keepdim=True)


def _sizes(base: Base, latents_BCHW: Tensor) -> Tensor:
    """The whole image, uncropped, as SDXL wants to be told: its pixels twice."""
    factor = vae_factor(base)
    height, width = latents_BCHW.shape[2] * factor, latents_BCHW.shape[3] * factor
    return torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=base.network.device)


def vae_factor(base: Base) -> int:
    """Pixels per latent along one side: 8 for all families."""
    return int(2 ** (len(base.vae.config.block_out_channels) - 1))
