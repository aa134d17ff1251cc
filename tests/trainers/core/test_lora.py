from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.tiny_parts import ATTENTION
from tests.tolerance import PRODUCT, assert_near
from trainers.core.lora import attach, lora_load_state, lora_state
from trainers.image.models.base import Base
from trainers.image.models.families import load_base

pytestmark = pytest.mark.numeric

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
"""One attention projection of the tiny base, 32 -> 32; SD 1.x has it too, 320 -> 320."""


@pytest.fixture
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


def trained(unet: nn.Module, *, r: int = 4, alpha: float = 8, dropout: float = 0.0) -> list[nn.Parameter]:
    """Attaches pairs and moves them, as some training would."""
    parameters = attach(unet, r=r, alpha=alpha, dropout=dropout, seed=7, targets=ATTENTION)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return parameters


def prediction(unet: nn.Module) -> Tensor:
    """(1, 4, 8, 8), of fixed inputs, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(unet.parameters()).dtype
    latents, text = (torch.randn(shape, generator=generator).to(dtype) for shape in ((1, 4, 8, 8), (1, 77, 32)))
    unet.eval()
    with torch.no_grad():
        output: Tensor = unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    return output.float()


def weight_delta(unet: nn.Module, module: str, adapter: str) -> Tensor:
    """What the adaptor adds to the weight of `module`, as peft itself works it out."""
    layer = unet.get_submodule(module)
    delta: Tensor = layer.get_delta_weight(adapter)  # type: ignore[operator]
    return delta


def test_a_fresh_adaptor_changes_nothing_and_a_trained_one_does(base: Base) -> None:
    before = prediction(base.network)
    parameters = attach(base.network, r=4, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    assert torch.equal(prediction(base.network), before)
    with torch.no_grad():
        parameters[1].add_(1.0)
    assert not torch.equal(prediction(base.network), before)


def test_pairs_sit_on_every_attention_projection_and_nowhere_else(base: Base) -> None:
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    modules = {key.rsplit(".lora_", 1)[0] for key in lora_state(base.network)}
    projections = (".to_q", ".to_k", ".to_v", ".to_out.0")
    assert modules == {name for name, _ in base.network.named_modules() if name.endswith(projections)}
    assert len(modules) == 2 * 4 * len([name for name, _ in base.network.named_modules() if name.endswith(".attn2")])


def test_only_the_pairs_are_trainable(base: Base) -> None:
    parameters = attach(base.network, r=4, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    trainable = {id(parameter) for parameter in base.network.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters}


def test_the_start_depends_on_the_seed_alone(tiny_sd: Path) -> None:
    def start(seed: int, global_seed: int) -> dict[str, Tensor]:
        unet = load_base(tiny_sd, torch.float32).network
        torch.manual_seed(global_seed)
        attach(unet, r=4, alpha=8, dropout=0.0, seed=seed, targets=ATTENTION)
        return lora_state(unet)

    first, again, other = start(7, 1), start(7, 2), start(2**63 - 1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_start_is_uniform_within_the_square_root_of_the_inputs_and_zero(base: Base) -> None:
    attach(base.network, r=64, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    state = lora_state(base.network)
    a, b = state[f"{LAYER}.lora_A.weight"], state[f"{LAYER}.lora_B.weight"]
    bound = 32**-0.5
    assert a.shape == (64, 32) and b.shape == (32, 64)
    assert 0.95 * bound < a.abs().max() <= bound
    assert abs(a.std().item() - bound / 3**0.5) < 0.05 * bound
    assert not b.any()


def test_two_layers_of_one_shape_start_differently(base: Base) -> None:
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    state = lora_state(base.network)
    assert not torch.equal(state[f"{LAYER}.lora_A.weight"], state[f"{LAYER[:-1]}v.lora_A.weight"])


def test_attaching_leaves_the_global_random_state_alone(base: Base) -> None:
    before = torch.get_rng_state()
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pairs_stay_fp32_on_a_half_precision_base_forward_and_backward(tiny_sd: Path, dtype: torch.dtype) -> None:
    unet = load_base(tiny_sd, dtype).network
    parameters = trained(unet)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert unet.conv_in.weight.dtype == dtype
    latents, text = torch.zeros(1, 4, 8, 8, dtype=dtype), torch.ones(1, 77, 32, dtype=dtype)
    output = unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    assert output.dtype == dtype
    output.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in parameters)


def test_alpha_over_r_scales_the_update(tiny_sd: Path) -> None:
    deltas = []
    for alpha in (4, 8):
        unet = load_base(tiny_sd, torch.float32).network
        trained(unet, r=4, alpha=alpha)
        deltas.append(weight_delta(unet, LAYER, "default"))
    assert_near(deltas[1], 2 * deltas[0], PRODUCT)
    state = lora_state(unet)
    assert_near(deltas[0], state[f"{LAYER}.lora_B.weight"] @ state[f"{LAYER}.lora_A.weight"], PRODUCT)


def test_dropout_works_in_training_and_not_in_evaluation(base: Base) -> None:
    trained(base.network, dropout=0.5)
    inputs = torch.zeros(1, 4, 8, 8), torch.tensor([500]), torch.ones(1, 77, 32)
    assert base.network.training
    with torch.no_grad():
        first, second = (base.network(*inputs).sample for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(prediction(base.network), prediction(base.network))


def test_the_state_goes_out_and_back_to_the_last_bit(base: Base, tiny_sd: Path) -> None:
    trained(base.network)
    other = load_base(tiny_sd, torch.float32).network
    attach(other, r=4, alpha=8, dropout=0.0, seed=99, targets=ATTENTION)
    lora_load_state(other, lora_state(base.network))
    assert torch.equal(prediction(other), prediction(base.network))


def test_a_state_of_another_rank_is_refused_with_both_shapes(base: Base, tiny_sd: Path) -> None:
    trained(base.network, r=4)
    other = load_base(tiny_sd, torch.float32).network
    attach(other, r=8, alpha=8, dropout=0.0, seed=7, targets=ATTENTION)
    with pytest.raises(ValueError, match=r"expected .* of shape torch.Size\(\[8, 32\]\), got torch.Size\(\[4, 32\]\)"):
        lora_load_state(other, lora_state(base.network))
