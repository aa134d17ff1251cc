"""LoRA pairs on a diffusion network while they train. The math is peft's; the checks are ours.

W' = W + (alpha / r) B A (Hu et al. 2021, "LoRA"). A pair stays in fp32 whatever the dtype of W.
"""

import hashlib
import math

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TRAINED = "default"
"""Name under which the pair in training is known to peft."""


def attach(unet: nn.Module, *, r: int, alpha: float, dropout: float, seed: int) -> list[nn.Parameter]:
    """Puts a fresh pair on every attention projection and returns its parameters, fp32, in a fixed order.

    A is uniform in +-1/sqrt(inputs), drawn from `seed` and the layer's name alone; B is zero, so the network starts
    unchanged. The network is left in train mode, where dropout works.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS)  # type: ignore[arg-type]
    inject(unet, config, TRAINED, None)
    for name, layer in lora_layers(unet, TRAINED):
        pair_init(layer, name, seed)
    unet.train()
    halves = [half for _, layer in lora_layers(unet, TRAINED) for half in (_a(layer, TRAINED), _b(layer, TRAINED))]
    return [parameter for half in halves for parameter in half.parameters()]


def lora_state(unet: nn.Module) -> dict[str, Tensor]:
    """The pair in training by name, `<module>.lora_A.weight` (r, in) and `.lora_B.weight` (out, r), fp32 on the CPU."""
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
        _a(layer, name).float()
        _b(layer, name).float()


def pair_init(layer: LoraLayer, name: str, seed: int) -> None:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    a = _a(layer, TRAINED).weight
    bound = 1 / math.sqrt(a[0].numel())
    with torch.no_grad():
        a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
        _b(layer, TRAINED).weight.zero_()


def lora_layers(unet: nn.Module, name: str) -> list[tuple[str, LoraLayer]]:
    found = [(n, m) for n, m in unet.named_modules() if isinstance(m, LoraLayer) and name in m.lora_A]
    return sorted(found, key=lambda item: item[0])


def _a(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_A[name]  # type: ignore[return-value]


def _b(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_B[name]  # type: ignore[return-value]
