"""The objective, family by family, against its closed form and the formulas of diffusers' training."""

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from tests.tolerance import CURVE, PRODUCT, assert_near
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.losses import alphas_cumprod, cosmap_weight, huber, min_snr_weight
from trainers.image.data.batches import MicroBatch
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import image_family, load_base
from trainers.image.models.text_encoders import text_stack
from trainers.image.training.denoising import denoising
from trainers.image.training.lora_setup import family_check

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")
SIZES = torch.tensor([[64.0, 96.0, 0.0, 4.0, 64.0, 64.0], [64.0, 64.0, 0.0, 0.0, 64.0, 64.0]])
FAMILIES = ("sd1", "sd2", "sdxl", "sd3", "flux")


@pytest.fixture(scope="session")
def loaded(tiny_base: Callable[[str], Path]) -> Callable[[str], Base]:
    """Base of a kind, in fp32. Its weights are not to be changed."""
    return cache(lambda kind: load_base(tiny_base(kind), torch.float32))


def params(**overrides: Any) -> ImageLoraParams:
    return ImageLoraParams(adaptor_name="a", resolution=64, **overrides)


def batch_of(base: Base, **changes: Any) -> MicroBatch:
    family = image_family(base.family)
    generator = torch.Generator().manual_seed(11)
    shape = (2, int(base.vae.config.latent_channels), 8, 8)
    x0, noise = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    times = torch.tensor([0.2, 0.9]) if family.is_flow else torch.tensor([100, 900])
    text = text_stack(family.encode_text(base, ["a dog", "a cat"], TextSettings()))
    return replace(MicroBatch(x0, noise, times, text, SIZES, torch.ones(2)), **changes)


@torch.no_grad()
def loss(base: Base, batch: MicroBatch, **overrides: Any) -> Tensor:
    return denoising(base, CPU, params(**overrides), torch.float32)(batch)[0]


@torch.no_grad()
def residuals(base: Base, batch: MicroBatch, guidance: float = 1.0) -> tuple[Tensor, Tensor]:
    """What the network says and what it should say, by diffusers' DDPM or the straight path of flow matching."""
    family = image_family(base.family)
    if family.is_flow:
        s = batch.times_B.view(-1, 1, 1, 1)
        noisy, goal = (1 - s) * batch.latents_BCHW + s * batch.noise_BCHW, batch.noise_BCHW - batch.latents_BCHW
    else:
        names = ("beta_start", "beta_end", "beta_schedule", "rescale_betas_zero_snr")
        config = {name: base.scheduler_config[name] for name in names if name in base.scheduler_config}
        ddpm: Any = DDPMScheduler(**config)  # type: ignore[no-untyped-call]
        noisy = ddpm.add_noise(batch.latents_BCHW, batch.noise_BCHW, batch.times_B)
        goal = batch.noise_BCHW
        if base.scheduler_config.get("prediction_type") == "v_prediction":
            goal = ddpm.get_velocity(batch.latents_BCHW, batch.noise_BCHW, batch.times_B)
    return family.predict(base, noisy, batch.times_B, batch.text, batch.sizes_B6, guidance), goal


def square(predicted: Tensor, goal: Tensor) -> Tensor:
    return (predicted - goal).square().mean(dim=(1, 2, 3))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_loss_of_every_family_is_the_mean_squared_error_to_its_target(
    kind: str, loaded: Callable[[str], Base]
) -> None:
    base = loaded(kind)
    batch = batch_of(base)
    predicted, goal = residuals(base, batch)
    assert torch.allclose(loss(base, batch), square(predicted, goal).sum(), rtol=CURVE)


@pytest.mark.parametrize("kind", ["sd1", "sd3"])
def test_weights_mask_and_huber_weigh_the_error(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    mask = torch.ones(2, 1, 8, 8)
    mask[:, :, :4] = 0.1
    weights = torch.tensor([0.25, cosmap_weight(0.9)])
    batch = batch_of(base, weights_B=weights, mask_B1HW=mask)
    predicted, goal = residuals(base, batch)
    expected = (((predicted - goal) ** 2 * mask).mean(dim=(1, 2, 3)) * weights).sum()
    assert torch.allclose(loss(base, batch), expected, rtol=CURVE)
    expected = ((huber(predicted, goal, 0.3) * mask).mean(dim=(1, 2, 3)) * weights).sum()
    assert torch.allclose(loss(base, batch, loss_type="huber", huber_c=0.3), expected, rtol=CURVE)


@pytest.mark.parametrize("kind", ["sd1", "sd2"])
def test_min_snr_weighs_noise_and_velocity_by_their_own_formula(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    batch = batch_of(base)
    abar = alphas_cumprod(base.scheduler_config)[batch.times_B]
    snr = abar / (1 - abar)
    weights = snr.clamp(max=5) / (snr if kind == "sd1" else snr + 1)
    assert torch.allclose(loss(base, batch, snr_gamma=5), (square(*residuals(base, batch)) * weights).sum(), rtol=CURVE)
    assert_near(weights, min_snr_weight("epsilon" if kind == "sd1" else "v_prediction", abar, 5), PRODUCT)


def test_min_snr_keeps_the_weights_that_samples_have_already(loaded: Callable[[str], Base]) -> None:
    base = loaded("sd1")
    batch = batch_of(base, weights_B=torch.tensor([0.25, 3.0]))
    abar = alphas_cumprod(base.scheduler_config)[batch.times_B]
    snr = abar / (1 - abar)
    expected = (square(*residuals(base, batch)) * batch.weights_B * snr.clamp(max=5) / snr).sum()
    assert torch.allclose(loss(base, batch, snr_gamma=5), expected, rtol=1e-5)


def test_an_override_of_the_prediction_type_changes_the_target(loaded: Callable[[str], Base]) -> None:
    base = loaded("sd1")
    velocity = replace(base, scheduler_config=base.scheduler_config | {"prediction_type": "v_prediction"})
    batch = batch_of(base)
    assert torch.allclose(loss(velocity, batch), square(*residuals(velocity, batch)).sum(), rtol=CURVE)
    assert not torch.allclose(loss(velocity, batch), loss(base, batch), rtol=1e-2)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_the_sampler_that_a_base_ships_does_not_matter(scheduler: str, loaded: Callable[[str], Base]) -> None:
    """PNDM has no velocity and Euler scales its noise: training takes the betas alone."""
    base = loaded("sd2")
    other = replace(base, scheduler_config=base.scheduler_config | {"_class_name": scheduler})
    assert torch.equal(loss(other, batch_of(base)), loss(base, batch_of(base)))


def test_a_base_with_zero_terminal_snr_is_trained_on_rescaled_betas(loaded: Callable[[str], Base]) -> None:
    base = loaded("sd2")
    zero = replace(base, scheduler_config=base.scheduler_config | {"rescale_betas_zero_snr": True})
    batch = batch_of(base, times_B=torch.tensor([500, 999]))
    assert torch.allclose(loss(zero, batch), square(*residuals(zero, batch)).sum(), rtol=CURVE)
    _, goal = residuals(zero, batch)
    assert torch.allclose(goal[1], -batch.latents_BCHW[1], atol=1e-4)  # no signal left: v = -x0
    with pytest.raises(TrainerError, match="ends without any signal") as caught:
        loss(replace(zero, scheduler_config=zero.scheduler_config | {"prediction_type": "epsilon"}), batch)
    assert caught.value.reason.code == ReasonCode.BAD_PARAMETERS


def test_flux_gets_the_guidance(loaded: Callable[[str], Base]) -> None:
    base = loaded("flux")
    batch = batch_of(base)
    actual = loss(base, batch, flux_guidance=4.0)
    assert torch.allclose(actual, square(*residuals(base, batch, guidance=4.0)).sum(), rtol=CURVE)
    assert not torch.equal(actual, loss(base, batch))


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3"])
def test_a_trained_text_encoder_gets_gradients_through_the_loss(kind: str, tiny_base: Callable[[str], Path]) -> None:
    base = load_base(tiny_base(kind), torch.float32)
    family = image_family(base.family)
    embedded = batch_of(base)
    ids = replace(embedded, text=text_stack(family.tokenize(base, ["a dog", "a cat"], TextSettings(clip_skip=1))))
    weights = [
        next(p for n, p in e.named_parameters() if "layers.0.self_attn.q_proj" in n) for e in base.text_encoders[:2]
    ]
    for weight in weights:
        weight.requires_grad_(True)
    total, _ = denoising(base, CPU, params(clip_skip=1), torch.float32)(ids)
    total.backward()  # type: ignore[no-untyped-call]
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights)
    plain = replace(embedded, text=text_stack(family.encode_text(base, ["a dog", "a cat"], TextSettings(clip_skip=1))))
    assert torch.allclose(total.detach(), loss(base, plain), rtol=CURVE)
    assert not torch.allclose(total.detach(), loss(base, embedded), rtol=1e-7)


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_base_gives_about_the_same_loss_in_fp32(
    kind: str, dtype: torch.dtype, loaded: Callable[[str], Base], tiny_base: Callable[[str], Path]
) -> None:
    batch = batch_of(loaded(kind))
    with torch.no_grad():
        actual = denoising(load_base(tiny_base(kind), dtype), CPU, params(), dtype)(batch)[0]
    assert actual.dtype == torch.float32
    assert torch.allclose(actual, loss(loaded(kind), batch), rtol=0.05)


def test_half_precision_computation_rounds_fp32_weights(loaded: Callable[[str], Base]) -> None:
    batch = batch_of(loaded("sd1"))
    with torch.no_grad():
        half = denoising(loaded("sd1"), CPU, params(), torch.bfloat16)(batch)[0]
    assert torch.allclose(half, loss(loaded("sd1"), batch), rtol=0.05)
    assert not torch.allclose(half, loss(loaded("sd1"), batch), rtol=1e-6)


@pytest.mark.parametrize(("kind", "settings"), [("sd1", {"snr_gamma": 5.0}), ("sd3", {})])
def test_an_objective_is_immutable(kind: str, settings: dict[str, Any], loaded: Callable[[str], Base]) -> None:
    objective: Any = denoising(loaded(kind), CPU, params(**settings), torch.float32)
    with pytest.raises(FrozenInstanceError):
        objective.huber_c = 0.1
    with pytest.raises(FrozenInstanceError):
        objective.noising.snr_gamma = 1.0


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("sd3", {"snr_gamma": 5.0}),
        ("flux", {"noise_offset": 0.1}),
        ("sd3", {"prediction_type": "epsilon"}),
        ("flux", {"clip_skip": 1}),
        ("flux_schnell", {"flux_guidance": 3.5}),
        ("sdxl", {"flux_guidance": 3.5}),
        ("sd1", {"timestep_sampling": "uniform"}),
        ("sd1", {"timestep_shift": 1.0}),
        ("sd2", {"max_sequence_length": 100}),
    ],
)
def test_a_parameter_without_effect_on_the_family_is_refused_by_name(
    kind: str, overrides: dict[str, Any], loaded: Callable[[str], Base]
) -> None:
    (name,) = overrides
    with pytest.raises(TrainerError, match=f"{name}=.* does nothing with") as caught:
        family_check(loaded(kind), params(**overrides))
    assert caught.value.reason.code == ReasonCode.BAD_PARAMETERS


def test_a_parameter_with_an_effect_on_the_family_is_accepted(loaded: Callable[[str], Base]) -> None:
    family_check(loaded("sd1"), params(snr_gamma=5.0, noise_offset=0.1, prediction_type="v_prediction", clip_skip=1))
    family_check(
        loaded("sd3"), params(timestep_sampling="mode", timestep_shift=1.0, max_sequence_length=77, clip_skip=1)
    )
    family_check(loaded("flux"), params(flux_guidance=3.5, max_sequence_length=256))


def test_sides_must_suit_the_patches_of_a_transformer(loaded: Callable[[str], Base]) -> None:
    overrides = ImageLoraParams(adaptor_name="a", resolution=72)
    family_check(loaded("sdxl"), overrides)
    for kind in ("sd3", "flux"):
        with pytest.raises(TrainerError, match="resolution=72 must be a multiple of 16"):
            family_check(loaded(kind), overrides)
