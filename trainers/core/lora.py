"""LoRA pairs on one network while they train. The math is peft's; the checks are ours.

W' = W + (alpha / r) B A (Hu et al. 2021, "LoRA"). A pair stays in fp32 whatever the dtype of W. With DoRA the length of
each row of W' is a parameter of its own (Liu et al. 2024). On an accelerator under autocast, linear layers compute with
casts of all pairs that each forward pass makes once (`casts_attach`).
"""

import hashlib
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

TRAINED = "default"
"""Name under which the pair in training is known to peft."""


def attach(
    network: nn.Module,
    *,
    r: int,
    alpha: float,
    dropout: float,
    seed: int,
    targets: Sequence[str],
    conv_rank: int = 0,
    use_dora: bool = False,
) -> list[nn.Parameter]:
    """Puts a fresh pair on every module of `targets` and returns their parameters, fp32, in a fixed order.

    A is uniform in +-1/sqrt(inputs), drawn from `seed` and the layer's name alone; B is zero, so the network starts
    unchanged. Convolutions among the targets have rank `conv_rank`, scaled by alpha / r too. The network is left in
    train mode, where dropout works.
    """
    modules = dict(network.named_modules())
    convolutions = [name for name in targets if isinstance(modules.get(name), nn.Conv2d)]
    config = LoraConfig(
        r=r,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=dropout,
        target_modules=list(targets),
        rank_pattern={f"^{name}": conv_rank for name in convolutions},
        alpha_pattern={f"^{name}": conv_rank * alpha / r for name in convolutions},
        use_dora=use_dora,
    )
    inject(network, config, TRAINED, None)
    layers = lora_layers(network, TRAINED)
    for name, layer in layers:
        pair_init(layer, name, seed)
    casts_attach(network, layers)
    network.train()
    return [parameter for _, layer in layers for part in _parts(layer, TRAINED) for parameter in part.parameters()]


def lora_state(unet: nn.Module) -> dict[str, Tensor]:
    """The pairs in training by name, fp32 on the CPU: `<module>.lora_A.weight` (r, in), `.lora_B.weight` (out, r).

    With DoRA `<module>.lora_magnitude_vector` (out) as well.
    """
    state = get_peft_model_state_dict(unet, adapter_name=TRAINED)
    return {key: state[key].detach().cpu().contiguous() for key in sorted(state)}


def lora_load_state(unet: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts back what `lora_state` gave; the names and shapes must be the same."""
    expected = {key: value.shape for key, value in lora_state(unet).items()}
    received = {key: value.shape for key, value in state.items()}
    if expected != received:
        differing = sorted(k for k in expected.keys() | received.keys() if expected.get(k) != received.get(k))
        key = differing[0]
        raise ValueError(f"expected {key} of shape {expected.get(key)}, got {received.get(key)}")
    set_peft_model_state_dict(unet, state, adapter_name=TRAINED)


def inject(unet: nn.Module, config: LoraConfig, name: str, state: dict[str, Tensor] | None) -> None:
    """Adds the layers in fp32, without touching the global random state."""
    training = unet.training
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, unet, name, state_dict=state)
    unet._hf_peft_config_loaded = True  # type: ignore[assignment]
    unet.train(training)
    for _, layer in lora_layers(unet, name):
        for part in _parts(layer, name):
            part.float()


def pair_init(layer: LoraLayer, name: str, seed: int) -> None:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    a = _a(layer, TRAINED).weight
    bound = 1 / math.sqrt(a[0].numel())
    with torch.no_grad():
        a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
        _b(layer, TRAINED).weight.zero_()


def lora_layers(unet: nn.Module, name: str) -> list[tuple[str, LoraLayer]]:
    layers = [(n, m) for n, m in unet.named_modules() if isinstance(m, LoraLayer) and name in m.lora_A]
    return sorted(layers, key=lambda item: item[0])


def _parts(layer: LoraLayer, name: str) -> list[nn.Module]:
    """A, B, and with DoRA the lengths."""
    lengths = [layer.lora_magnitude_vector[name]] if name in layer.lora_magnitude_vector else []
    return [_a(layer, name), _b(layer, name), *lengths]


def _a(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_A[name]  # type: ignore[return-value]


def _b(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_B[name]  # type: ignore[return-value]


def casts_attach(network: nn.Module, layers: Sequence[tuple[str, LoraLayer]], *, also_on_cpu: bool = False) -> None:
    """Lets the linear `layers` of `network` compute with casts of their pairs, made once in each forward pass.

    Only on an accelerator, under autocast, with gradients, and without DoRA: else peft's own forward runs, so that its
    bits stay. peft casts each input to fp32 and back, and each pair in each layer. Equal up to the rounding of the
    scaling, which is part of the cast of B. State, names and files stay peft's.
    """
    plain = [layer for _, layer in layers if _is_plain_linear(layer)]
    for layer in plain:
        layer.__class__ = _computing_with_casts(type(layer))
        layer.casts = None  # type: ignore[attr-defined]

    def make_casts(_network: nn.Module, _inputs: Any) -> None:
        device_type = _a(plain[0], TRAINED).weight.device.type
        dtype = _autocast_dtype(device_type) if also_on_cpu or device_type != "cpu" else None
        casts: list[Tensor | None] = [None] * (2 * len(plain))
        if dtype is not None and torch.is_grad_enabled():
            scalings = [scaling for layer in plain for scaling in (1.0, layer.scaling[TRAINED])]
            weights = [half(layer, TRAINED).weight for layer in plain for half in (_a, _b)]
            casts = list(_ScaledCasts.apply(dtype, scalings, *weights))  # type: ignore[no-untyped-call]
        for index, layer in enumerate(plain):
            a, b = casts[2 * index], casts[2 * index + 1]
            layer.casts = None if a is None else (a, b)  # type: ignore[attr-defined]

    if plain:
        network.register_forward_pre_hook(make_casts)


def _autocast_dtype(device_type: str) -> torch.dtype | None:
    """None: autocast is off."""
    is_on = torch.amp.is_autocast_available(device_type) and torch.is_autocast_enabled(device_type)
    return torch.get_autocast_dtype(device_type) if is_on else None


def _is_plain_linear(layer: LoraLayer) -> bool:
    return isinstance(_a(layer, TRAINED), nn.Linear) and TRAINED not in layer.lora_variant


@cache
def _computing_with_casts(kind: type[LoraLayer]) -> type[LoraLayer]:
    """The subclass of a layer class of peft, whatever its base layer: plain, 8 or 4 bits."""
    if issubclass(kind, _ComputesWithCasts):
        return kind
    return type(kind.__name__, (_ComputesWithCasts, kind), {})


class _ComputesWithCasts:
    """Three matrix products in a forward pass: base layer, A, and B added to the base layer's output."""

    casts: tuple[Tensor, Tensor] | None
    """A (r, in) and scaling x B (out, r) in the compute dtype."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer: Any = self
        if self.casts is None or layer.disable_adapters or layer.merged or args or kwargs:
            result: Tensor = super().forward(x, *args, **kwargs)  # type: ignore[misc]
            return result
        a, scaled_b = self.casts
        x = x.to(a.dtype)  # here, so that base layer and A share the cast
        result = layer.base_layer(x)
        inner = nn.functional.linear(layer.lora_dropout[TRAINED](x), a)
        return torch.addmm(result.flatten(0, -2), inner.flatten(0, -2), scaled_b.T).view_as(result)


class _ScaledCasts(torch.autograd.Function):
    """Weights times their scalings in another dtype, by kernels that each take all of them."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, scalings: list[float], *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.scalings = scalings
        casts = [torch.empty_like(weight, dtype=dtype) for weight in weights]
        torch._foreach_copy_(casts, torch._foreach_mul(weights, scalings))
        return tuple(casts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        unscaled = [torch.empty_like(grad, dtype=torch.float32) for grad in grads]
        torch._foreach_copy_(unscaled, grads)
        torch._foreach_mul_(unscaled, ctx.scalings)
        return (None, None, *unscaled)
