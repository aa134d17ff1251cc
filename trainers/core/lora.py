"""LoRA pairs on one network while they train. The math is peft's; the checks are ours.

W' = W + (alpha / r) B A (Hu et al. 2021, "LoRA"). A pair stays in fp32 whatever the dtype of W. With DoRA the length of
each row of W' is a parameter of its own (Liu et al. 2024).
"""

import hashlib
import math
from collections.abc import Sequence

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
