"""Diffusion losses as pure functions. Legend: B batch, C channels, H height, W width, T training timesteps.

x_t = a x0 + s e with a = sqrt(abar_t), s = sqrt(1 - abar_t) (DDPM, Ho et al. 2020, eq. 4), always with the base model's
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
        betas = torch.tensor(config["trained_betas"], dtype=torch.float32)
    elif schedule == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float32)
    elif schedule == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    elif schedule == "squaredcos_cap_v2":
        betas = cosine_betas(count)
    else:
        raise ValueError(f"beta_schedule must be linear, scaled_linear or squaredcos_cap_v2, got {schedule!r}")
    return rescale_zero_terminal_snr(betas) if config.get("rescale_betas_zero_snr") else betas


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
    """What the network should predict: e, or the velocity v = a e - s x0 (Salimans and Ho 2022, appendix D)."""
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
    """e + c N(0, 1) per image and channel; the result is both in x_t and in the target (Guttenberg 2023)."""
    return noise_BCHW + strength * shift_BC[:, :, None, None]


def flow_noise(x0_BCHW: Tensor, noise_BCHW: Tensor, time_B: Tensor) -> Tensor:
    """x_s = (1 - s) x0 + s e (Esser et al. 2024, "Scaling rectified flow transformers", eq. 13)."""
    time_B111 = time_B.view(-1, 1, 1, 1)
    return (1 - time_B111) * x0_BCHW + time_B111 * noise_BCHW


def flow_target(x0_BCHW: Tensor, noise_BCHW: Tensor) -> Tensor:
    """The velocity dx_s/ds = e - x0."""
    return noise_BCHW - x0_BCHW


def logit_normal_time(normal: float) -> float:
    """sigmoid of a standard normal draw: most times lie in the middle (Esser et al. 2024, eq. 19)."""
    return 1 / (1 + math.exp(-normal))


def mode_time(uniform: float, scale: float = 1.29) -> float:
    """1 - u - k (cos^2(pi u / 2) - 1 + u): heavy in the middle, with all of [0, 1] (Esser et al. 2024, eq. 20)."""
    return 1 - uniform - scale * (math.cos(math.pi * uniform / 2) ** 2 - 1 + uniform)


def cosmap_weight(time: float) -> float:
    """2 / (pi (1 - 2 s + 2 s^2)), of mean 1 over s in [0, 1]: uniform times that count as the cosine schedule's."""
    return 2 / (math.pi * (1 - 2 * time + 2 * time**2))


def shifted_time(time: float, shift: float) -> float:
    """k s / (1 + (k - 1) s): k > 1 moves times towards noise, 1 leaves them (Esser et al. 2024, eq. 23)."""
    return shift * time / (1 + (shift - 1) * time)


def flux_mu(num_tokens: int) -> float:
    """Flux: log of the shift, linear in the image's tokens, 0.5 at 256 and 1.15 at 4096."""
    return 0.5 + (1.15 - 0.5) * (num_tokens - 256) / (4096 - 256)


def squared(predicted_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
    """Squared error of each element, in fp32."""
    return (predicted_BCHW.float() - target_BCHW.float()).square()


def huber(predicted_BCHW: Tensor, target_BCHW: Tensor, c: float) -> Tensor:
    """2 c (sqrt(d^2 + c^2) - c) of each difference d, in fp32: d^2 near 0, 2 c |d| far away (Charbonnier)."""
    return 2 * c * ((squared(predicted_BCHW, target_BCHW) + c**2).sqrt() - c)


def sample_means(error_BCHW: Tensor, mask_B1HW: Tensor | None = None) -> Tensor:
    """Mean of each sample's elements, [B]; each element times its place's weight where there is a mask."""
    weighted_BCHW = error_BCHW if mask_B1HW is None else error_BCHW * mask_B1HW
    return weighted_BCHW.mean(dim=(1, 2, 3))
