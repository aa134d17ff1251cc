import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from diffusers.training_utils import compute_density_for_timestep_sampling, compute_loss_weighting_for_sd3

from tests.tolerance import PRODUCT, assert_near
from trainers.core import losses

pytestmark = pytest.mark.numeric

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
    assert torch.allclose(losses.alphas_cumprod(config), reference, rtol=1e-5, atol=1e-8)


def test_an_unknown_schedule_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="got 'sigmoid'"):
        losses.alphas_cumprod({"beta_schedule": "sigmoid"})


def test_snr_of_stable_diffusion_is_the_reference() -> None:
    result = losses.snr(losses.alphas_cumprod(SD)[TIMESTEPS])
    assert torch.allclose(result, torch.tensor([1175.4, 103.51, 0.38185, 0.0046819]), rtol=5e-5)


def test_noising_and_velocity_are_those_of_ddpm() -> None:
    scheduler, x0, noise = ddpm(**SD), images(1), images(2)
    abar = losses.alphas_cumprod(SD)[TIMESTEPS]
    assert_near(losses.add_noise(x0, noise, abar), scheduler.add_noise(x0, noise, TIMESTEPS), PRODUCT)
    velocity = losses.target("v_prediction", x0, noise, abar)
    assert_near(velocity, scheduler.get_velocity(x0, noise, TIMESTEPS), PRODUCT)
    assert losses.target("epsilon", x0, noise, abar) is noise


def test_the_clean_image_follows_from_noisy_image_and_velocity() -> None:
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


def test_noise_offset_shifts_each_channel_of_each_image_as_a_whole() -> None:
    noise, shift = images(1), torch.randn(4, 4)
    moved = losses.offset_noise(noise, shift, 0.1) - noise
    assert_near(moved, 0.1 * shift[:, :, None, None].expand_as(noise), PRODUCT)


def test_means_are_per_sample_and_in_fp32() -> None:
    predicted = torch.stack([torch.full((4, 2, 2), 1.0), torch.full((4, 2, 2), 3.0)]).half()
    result = losses.sample_means(losses.squared(predicted, torch.zeros(2, 4, 2, 2)))
    assert result.tolist() == [1.0, 9.0]
    assert result.dtype == torch.float32


def test_a_mask_weighs_places() -> None:
    error, mask = torch.ones(1, 4, 2, 2), torch.tensor([[[[1.0, 0.1], [0.1, 0.1]]]])
    assert_near(losses.sample_means(error, mask), torch.tensor([1.3 / 4]), PRODUCT)


def test_huber_is_the_formula_and_lies_between_square_and_line() -> None:
    difference = torch.tensor([0.0, 0.001, 0.3, 50.0]).view(1, 1, 2, 2)
    result = losses.huber(difference, torch.zeros(1, 1, 2, 2), 0.1).flatten()
    c, d = 0.1, difference.flatten()
    assert torch.allclose(result, 2 * c * ((d**2 + c**2).sqrt() - c), rtol=1e-4, atol=1e-8)
    assert result[1] == pytest.approx(0.001**2, rel=1e-2)
    assert result[3] == pytest.approx(2 * c * (50 - c), rel=1e-3)


def test_flow_noising_runs_straight_from_image_to_noise_at_the_targets_velocity() -> None:
    x0, noise, times = images(1), images(2), torch.tensor([0.0, 0.25, 0.5, 1.0])
    noisy = losses.flow_noise(x0, noise, times)
    assert torch.equal(noisy[0], x0[0]) and torch.equal(noisy[3], noise[3])
    ahead = losses.flow_noise(x0, noise, times + 0.5)
    assert torch.allclose((ahead - noisy) / 0.5, losses.flow_target(x0, noise), atol=1e-5)


def test_flow_noising_is_that_of_diffusers() -> None:
    scheduler: Any = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)  # type: ignore[no-untyped-call]
    x0, noise = images(1), images(2)
    times = scheduler.timesteps[[0, 10, 500, 999]]
    reference = scheduler.scale_noise(x0, times, noise)
    assert torch.allclose(losses.flow_noise(x0, noise, times / 1000), reference, atol=1e-5)


def test_times_of_sd3_are_those_of_diffusers_training() -> None:
    draws = torch.randn(64, generator=torch.Generator().manual_seed(0))
    reference = density("logit_normal", logit_mean=0.0, logit_std=1.0)
    assert_near(torch.tensor([losses.logit_normal_time(float(n)) for n in draws]), reference, PRODUCT)
    uniforms = torch.rand(64, generator=torch.Generator().manual_seed(0))
    reference = density("mode", mode_scale=1.29)
    assert_near(torch.tensor([losses.mode_time(float(u)) for u in uniforms]), reference, PRODUCT)


def density(scheme: str, **options: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    drawn: torch.Tensor = compute_density_for_timestep_sampling(scheme, 64, generator=generator, **options)  # type: ignore[no-untyped-call, arg-type]
    return drawn


def test_cosmap_weights_are_those_of_diffusers_training_and_have_mean_1() -> None:
    times = (torch.arange(1000) + 0.5) / 1000
    result = torch.tensor([losses.cosmap_weight(float(time)) for time in times])
    assert_near(result, compute_loss_weighting_for_sd3("cosmap", times), PRODUCT)
    assert result.mean() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_shift_is_that_of_the_scheduler(shift: float) -> None:
    plain: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)  # type: ignore[no-untyped-call]
    shifted: Any = FlowMatchEulerDiscreteScheduler(shift=shift)  # type: ignore[no-untyped-call]
    ours = torch.tensor([losses.shifted_time(float(s), shift) for s in plain.sigmas])
    assert_near(ours, shifted.sigmas, PRODUCT)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_mu_of_flux_and_its_shift_are_those_of_diffusers(tokens: int) -> None:
    assert losses.flux_mu(tokens) == pytest.approx(calculate_shift(tokens), rel=1e-6)
    scheduler: Any = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)  # type: ignore[no-untyped-call]
    times = torch.tensor([0.1, 0.5, 1.0])
    reference = scheduler.time_shift(losses.flux_mu(tokens), 1.0, times)
    ours = [losses.shifted_time(float(time), math.exp(losses.flux_mu(tokens))) for time in times]
    assert_near(torch.tensor(ours), reference, PRODUCT)
