"""Compilation by blocks, with a backend that counts graphs and runs them as they are."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from tests.trainers.image.training.test_denoising import FAMILIES, batch_of, params
from trainers.core.lora import TRAINED, attach, casts_attach, lora_layers
from trainers.image.models.base import Base
from trainers.image.models.families import image_family, load_base
from trainers.image.training.compiling import REPEATED, blocks_compile
from trainers.image.training.denoising import denoising

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def gradients(base: Base, parameters: list[nn.Parameter], dtype: torch.dtype, side: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, 2, int(base.vae.config.latent_channels), side, side, generator=generator)
    batch = batch_of(base, latents_BCHW=x0, noise_BCHW=noise)
    total, _ = denoising(base, CPU, params(), dtype)(batch)
    return list(torch.autograd.grad(total, parameters))


def trained(folder: Path, dtype: torch.dtype) -> tuple[Base, list[nn.Parameter]]:
    base = load_base(folder, dtype)
    targets = image_family(base.family).targets(base.network, "attention", False)
    parameters = attach(base.network, r=2, alpha=2, dropout=0.0, seed=1, targets=targets)
    with torch.no_grad():
        for index, parameter in enumerate(parameters):
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(index)))
    return base, parameters


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_are_compiled_and_keep_the_gradients(family: str, tiny_base: Callable[[str], Path]) -> None:
    base, parameters = trained(tiny_base(family), torch.float32)
    expected = gradients(base, parameters, torch.float32)
    counter = CompileCounterWithBackend("eager")
    blocks = blocks_compile(base.network, dynamic=False, backend=counter)
    results = gradients(base, parameters, torch.float32)
    assert {type(block).__name__ for block in blocks} <= REPEATED and counter.frame_count >= 1
    assert base.network._compiled_call_impl is None, "the network as a whole is not compiled"
    assert all(torch.equal(result, value) for result, value in zip(results, expected, strict=True))


@pytest.mark.slow
def test_a_new_shape_of_images_compiles_nothing_if_dynamic(tiny_base: Callable[[str], Path]) -> None:
    """Sizes that are equal by chance in the first shape, as 16 patches and heads of 16, would need another graph."""
    base, parameters = trained(tiny_base("flux"), torch.float32)
    counter = CompileCounterWithBackend("eager")
    blocks_compile(base.network, dynamic=True, backend=counter)
    gradients(base, parameters, torch.float32, side=12)
    first = counter.frame_count
    gradients(base, parameters, torch.float32, side=20)
    assert counter.frame_count == first > 0


@pytest.mark.slow
def test_blocks_compile_with_pairs_that_are_cast_once(tiny_base: Callable[[str], Path]) -> None:
    """A second step, with casts of its own, uses what the first compiled."""
    base, parameters = trained(tiny_base("flux"), torch.bfloat16)
    base.network._forward_pre_hooks.clear()
    casts_attach(base.network, lora_layers(base.network, TRAINED), also_on_cpu=True)
    expected = gradients(base, parameters, torch.bfloat16)
    counter = CompileCounterWithBackend("eager")
    blocks_compile(base.network, dynamic=False, backend=counter)
    results = gradients(base, parameters, torch.bfloat16)
    first = counter.frame_count
    gradients(base, parameters, torch.bfloat16)
    assert counter.frame_count == first > 0
    assert all(torch.equal(result, value) for result, value in zip(results, expected, strict=True))
