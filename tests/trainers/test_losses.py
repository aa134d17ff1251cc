from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from trainers import losses

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
CONFIGS: list[dict[str, Any]] = [
    SD,
    {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    {"beta_schedule": "squaredcos_cap_v2"},
    {**SD, "rescale_betas_zero_snr": True},
    {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3},
    {**SD, "num_train_timesteps": 500},
]
TIMESTEPS = torch.tensor([0, 10, 500, 999])


def ddpm(**config: Any) -> Any:
    return DDPMScheduler(**config)  # type: ignore[no-untyped-call]  # diffusers has no types


def images(seed: int) -> torch.Tensor:
    return torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("config", CONFIGS)
def test_noise_levels_are_those_of_diffusers(config: dict[str, Any]) -> None:
    reference = ddpm(**config).alphas_cumprod
    assert torch.allclose(losses.alphas_cumprod(config), reference, rtol=1e-6, atol=1e-8)


def test_an_unknown_schedule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got 'sigmoid'"):
        losses.alphas_cumprod({"beta_schedule": "sigmoid"})


def test_snr_of_stable_diffusion_is_the_reference() -> None:
    found = losses.snr(losses.alphas_cumprod(SD)[TIMESTEPS])
    assert torch.allclose(found, torch.tensor([1175.4, 103.51, 0.38185, 0.0046819]), rtol=5e-5)


def test_noising_and_velocity_are_those_of_ddpm() -> None:
    scheduler, x0, noise = ddpm(**SD), images(1), images(2)
    abar = losses.alphas_cumprod(SD)[TIMESTEPS]
    assert torch.allclose(losses.add_noise(x0, noise, abar), scheduler.add_noise(x0, noise, TIMESTEPS), atol=1e-6)
    velocity = losses.target("v_prediction", x0, noise, abar)
    assert torch.allclose(velocity, scheduler.get_velocity(x0, noise, TIMESTEPS), atol=1e-6)
    assert losses.target("epsilon", x0, noise, abar) is noise


def test_the_clean_picture_follows_from_noisy_picture_and_velocity() -> None:
    x0, noise, abar = images(1), images(2), losses.alphas_cumprod(SD)[TIMESTEPS]
    noisy, velocity = losses.add_noise(x0, noise, abar), losses.target("v_prediction", x0, noise, abar)
    a, s = abar.sqrt().view(-1, 1, 1, 1), (1 - abar).sqrt().view(-1, 1, 1, 1)
    assert torch.allclose(a * noisy - s * velocity, x0, atol=1e-5)


def test_min_snr_weights_have_their_closed_form() -> None:
    abar = losses.alphas_cumprod(SD)[TIMESTEPS]
    snr = torch.tensor([1175.4403, 103.5075, 0.38185, 0.00468191])
    clipped = torch.tensor([5, 5, 0.38185, 0.00468191])
    assert torch.allclose(losses.min_snr_weight("epsilon", abar, 5), clipped / snr, rtol=1e-4)
    assert torch.allclose(losses.min_snr_weight("v_prediction", abar, 5), clipped / (snr + 1), rtol=1e-4)


def test_min_snr_weight_of_v_is_finite_at_zero_terminal_snr() -> None:
    last = losses.alphas_cumprod({**SD, "rescale_betas_zero_snr": True})[-1:]
    assert losses.min_snr_weight("v_prediction", last, 5).item() == 0


def test_noise_offset_shifts_each_channel_of_each_picture_as_a_whole() -> None:
    noise, shift = images(1), torch.randn(4, 4)
    moved = losses.offset_noise(noise, shift, 0.1) - noise
    assert torch.allclose(moved, 0.1 * shift[:, :, None, None].expand_as(noise), atol=1e-6)


def test_mean_square_is_per_sample_and_in_fp32() -> None:
    predicted = torch.stack([torch.full((4, 2, 2), 1.0), torch.full((4, 2, 2), 3.0)]).half()
    found = losses.mean_square(predicted, torch.zeros(2, 4, 2, 2))
    assert found.tolist() == [1.0, 9.0]
    assert found.dtype == torch.float32
