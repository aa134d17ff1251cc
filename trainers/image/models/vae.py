"""The VAE of a base model: opened in a dtype that it can bear, and images to its moments."""

# B batch, C channels, H height, W width

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from trainers.image.models.base import Base
from trainers.image.models.parts import part_config, part_load


def vae_load(folder: Path, dtype: torch.dtype) -> Any:
    """In `dtype`, but fp32 for fp16 where its config says that it overflows there (force_upcast)."""
    overflows = part_config(folder, "vae").get("force_upcast", True)
    return part_load(AutoencoderKL, folder, "vae", torch.float32 if dtype == torch.float16 and overflows else dtype)


@torch.no_grad()
def encode_image(base: Base, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-variance of the VAE's posterior, fp32 (B, C, H/8, W/8), unscaled; pixels in [-1, 1]."""
    posterior = base.vae.encode(pixels_BCHW.to(base.vae.device, base.vae.dtype)).latent_dist
    return posterior.mean.float(), posterior.logvar.float()
