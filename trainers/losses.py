"""Diffusion losses as pure functions. Legend: B batch, C channels, H height, W width, T training timesteps.

x_t = a x0 + s e with a = sqrt(abar_t), s = sqrt(1 - abar_t) (DDPM, Ho et al. 2020, eq. 4), always on the base model's
own betas, whatever sampler it ships: Euler's `add_noise` is scaled differently, PNDM has no velocity.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


def betas(config: Mapping[str, Any]) -> Tensor:
    """betas_T of a diffusers scheduler config, as its DDPMScheduler builds them. ValueError: unknown schedule."""
    count = int(config.get("num_train_timesteps", 1000))
    start, end = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    schedule = config.get("beta_schedule", "linear")
    if config.get("trained_betas") is not None:
        found = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif schedule == "linear":
        found = torch.linspace(start, end, count, dtype=torch.float32)
    elif schedule == "scaled_linear":
        found = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    elif schedule == "squaredcos_cap_v2":
        found = cosine_betas(count)
    else:
        raise ValueError(f"beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {schedule!r}")
    return rescale_zero_terminal_snr(found) if config.get("rescale_betas_zero_snr") else found


def cosine_betas(count: int) -> Tensor:
    """Improved DDPM (Nichol and Dhariwal 2021), eq. 17, capped at 0.999."""

    def abar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    return torch.tensor([min(1 - abar((i + 1) / count) / abar(i / count), 0.999) for i in range(count)])


def rescale_zero_terminal_snr(betas_T: Tensor) -> Tensor:
    """Shifts and scales sqrt(abar) so that it ends at 0 (Lin et al. 2023, algorithm 1)."""
    root_T = torch.cumprod(1 - betas_T, 0).sqrt()
    root_T = (root_T - root_T[-1]) * root_T[0] / (root_T[0] - root_T[-1])
    abar_T = root_T**2
    return 1 - torch.cat([abar_T[:1], abar_T[1:] / abar_T[:-1]])


def alphas_cumprod(config: Mapping[str, Any]) -> Tensor:
    """abar_T in fp32."""
    return torch.cumprod(1 - betas(config), 0)


def add_noise(x0_BCHW: Tensor, noise_BCHW: Tensor, abar_B: Tensor) -> Tensor:
    """x_t = a x0 + s e."""
    abar_B111 = abar_B.view(-1, 1, 1, 1)
    return abar_B111.sqrt() * x0_BCHW + (1 - abar_B111).sqrt() * noise_BCHW


def target(prediction_type: PredictionType, x0_BCHW: Tensor, noise_BCHW: Tensor, abar_B: Tensor) -> Tensor:
    """What the network shall say: e, or the velocity v = a e - s x0 (Salimans and Ho 2022, appendix D)."""
    if prediction_type == "epsilon":
        return noise_BCHW
    abar_B111 = abar_B.view(-1, 1, 1, 1)
    return abar_B111.sqrt() * noise_BCHW - (1 - abar_B111).sqrt() * x0_BCHW


def snr(abar: Tensor) -> Tensor:
    """Signal to noise ratio a^2 / s^2."""
    return abar / (1 - abar)


def min_snr_weight(prediction_type: PredictionType, abar_B: Tensor, gamma: float) -> Tensor:
    """min(snr, gamma) / snr for epsilon, / (snr + 1) for v (Hang et al. 2023, section 3.4)."""
    snr_B = snr(abar_B)
    return snr_B.clamp(max=gamma) / (snr_B if prediction_type == "epsilon" else snr_B + 1)


def offset_noise(noise_BCHW: Tensor, shift_BC: Tensor, strength: float) -> Tensor:
    """e + c N(0, 1) per picture and channel; the result is both in x_t and in the target (Guttenberg 2023)."""
    return noise_BCHW + strength * shift_BC[:, :, None, None]


def mean_square(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Mean squared error of each sample, in fp32: [B]."""
    return (predicted_BCHW.float() - target_BCHW.float()).square().mean(dim=(1, 2, 3))
