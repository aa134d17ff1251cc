"""Pictures to moments of a VAE, the same for every family."""

# B batch, C channels, H height, W width

import torch
from torch import Tensor

from trainers.models.base import Base


@torch.no_grad()
def encode_image(base: Base, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the VAE's posterior, fp32 (B, C, H/8, W/8), unscaled; pixels in [-1, 1]."""
    posterior = base.vae.encode(pixels_BCHW.to(base.vae.device, base.vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.logvar.float()
