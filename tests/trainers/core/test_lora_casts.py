"""Pairs that a forward pass casts once: few kernels for each layer, and the results of peft's own forward."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.trainers.dispatch import Kinds
from trainers.core.device import network_quantise
from trainers.core.lora import TRAINED, attach, casts_attach, lora_layers, lora_state

WIDTH = 32


class Chain(nn.Module):
    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(WIDTH, WIDTH)) for _ in range(num_layers)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def chain(
    num_layers: int, *, casts: bool, prepare: Callable[[nn.Module], object] = nn.Module.bfloat16, **settings: Any
) -> tuple[nn.Module, list[nn.Parameter]]:
    """A frozen chain with moved pairs on each layer; with `casts` it computes as on an accelerator."""
    torch.manual_seed(0)
    network = Chain(num_layers).requires_grad_(False)
    prepare(network)
    targets = [f"blocks.{index}.0" for index in range(num_layers)]
    parameters = attach(network, seed=1, targets=targets, **{"r": 4, "alpha": 6, "dropout": 0.0, **settings})
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape))
    if casts:
        network._forward_pre_hooks.clear()
        casts_attach(network, lora_layers(network, TRAINED), also_on_cpu=True)
    return network, parameters


def gradients(network: nn.Module, parameters: list[nn.Parameter], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """The output, and the gradients of the input and the pairs."""
    x = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = network(x)
    grads = torch.autograd.grad(output.float().square().sum(), [x, *parameters])
    return [output.detach(), *grads]


def per_layer(*, casts: bool) -> Counter[str]:
    """Kernels of forward and backward that one more layer adds."""
    counts = []
    for num_layers in (2, 3):
        network, parameters = chain(num_layers, casts=casts)
        with Kinds() as kinds:
            gradients(network, parameters)
        counts.append(kinds.counts)
    return Counter({kind: counts[1][kind] - counts[0][kind] for kind in counts[1]})


def test_a_layer_costs_eight_products_and_one_sum_without_copies() -> None:
    assert per_layer(casts=True) == {"products": 8, "others": 1, "copies": 0}


def test_pefts_own_layer_costs_many_copies() -> None:
    counts = per_layer(casts=False)
    assert counts["products"] == 8 and counts["copies"] >= 8


@pytest.mark.parametrize("alpha", [4.0, 6.0])
def test_in_fp32_results_equal_pefts(monkeypatch: pytest.MonkeyPatch, alpha: float) -> None:
    single: Callable[[nn.Module], object] = nn.Module.float
    expected = gradients(*chain(3, casts=False, prepare=single, alpha=alpha), dtype=torch.float32)
    network, parameters = chain(3, casts=True, prepare=single, alpha=alpha)
    monkeypatch.setattr("trainers.core.lora._autocast_dtype", lambda _device: torch.float32)
    results = gradients(network, parameters, dtype=torch.float32)
    assert all(layer.casts is not None for _, layer in lora_layers(network, TRAINED))
    for result, reference in zip(results, expected, strict=True):
        torch.testing.assert_close(result, reference, rtol=1e-6, atol=1e-6 * float(reference.abs().max()))


@pytest.mark.parametrize("kind", ["bf16", "int8", "nf4"])
def test_in_bf16_results_are_near_pefts_on_any_base(kind: str) -> None:
    def prepare(network: nn.Module) -> None:
        network.bfloat16()
        if kind != "bf16":
            network_quantise(network, kind, torch.device("cpu"))  # type: ignore[arg-type]

    expected = gradients(*chain(2, casts=False, prepare=prepare))
    network, parameters = chain(2, casts=True, prepare=prepare)
    for result, reference in zip(gradients(network, parameters), expected, strict=True):
        assert float((result - reference).norm() / reference.norm()) < 0.02
        assert result.dtype == reference.dtype
    assert all(layer.casts is not None for _, layer in lora_layers(network, TRAINED))


def test_dropout_leaves_out_inputs_of_the_pairs_alone() -> None:
    network, parameters = chain(1, casts=True, dropout=0.5)

    def output(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return gradients(network, parameters)[0]

    assert torch.equal(output(1), output(1)) and not torch.equal(output(1), output(2))
    network.eval()
    assert torch.equal(output(1), output(2))


def test_dora_computes_as_peft_does() -> None:
    expected = gradients(*chain(2, casts=False, use_dora=True))
    results = gradients(*chain(2, casts=True, use_dora=True))
    assert all(torch.equal(result, reference) for result, reference in zip(results, expected, strict=True))


def test_without_gradients_or_autocast_peft_computes() -> None:
    network, parameters = chain(1, casts=True)
    ((_, layer),) = lora_layers(network, TRAINED)
    gradients(network, parameters)
    assert layer.casts is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        network(torch.zeros(1, WIDTH, dtype=torch.bfloat16))
    assert layer.casts is None


def test_a_cpu_keeps_the_bits_of_peft() -> None:
    network, parameters = chain(1, casts=False)
    gradients(network, parameters)
    assert all(layer.casts is None for _, layer in lora_layers(network, TRAINED))


def test_disabled_pairs_leave_the_base_alone() -> None:
    network, _ = chain(1, casts=True)
    ((_, layer),) = lora_layers(network, TRAINED)
    x = torch.randn(2, WIDTH).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        with_pairs = network(x)
        layer.enable_adapters(False)
        assert not torch.equal(network(x), with_pairs)
        assert torch.equal(network(x), layer.base_layer(x))  # type: ignore[operator]


def test_names_and_values_of_the_state_are_pefts() -> None:
    plain, casting = (lora_state(chain(2, casts=casts)[0]) for casts in (False, True))
    assert plain.keys() == casting.keys()
    assert all(torch.equal(plain[key], casting[key]) for key in plain)
