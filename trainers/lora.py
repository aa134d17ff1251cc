"""LoRA pairs on a diffusion network: attach, save, load. The math is peft's; the checks are ours.

W' = W + (alpha / r) B A (Hu et al. 2021, "LoRA"). A pair stays in fp32 whatever the dtype of W.
"""

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save
from torch import Tensor, nn

from trainers.adaptor_file import WEIGHTS, AdaptorFile, adaptor_read, targets_check
from trainers.atomic import bytes_write

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
TRAINED = "default"
"""Name under which the pair in training is known to peft."""


def attach(unet: nn.Module, *, r: int, alpha: float, dropout: float, seed: int) -> list[nn.Parameter]:
    """Puts a fresh pair on every attention projection and returns its parameters, fp32, in a fixed order.

    A is uniform in +-1/sqrt(inputs), drawn from `seed` and the layer's name alone; B is zero, so the network starts
    unchanged. The network is left in train mode, where dropout works.
    """
    config = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=TARGETS)  # type: ignore[arg-type]
    _inject(unet, config, TRAINED, None)
    for name, layer in _layers(unet, TRAINED):
        _init_pair(layer, name, seed)
    unet.train()
    halves = [half for _, layer in _layers(unet, TRAINED) for half in (_a(layer, TRAINED), _b(layer, TRAINED))]
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


def adaptor_save(unet: nn.Module, folder: Path, *, metadata: dict[str, str]) -> Path:
    """Writes `folder/pytorch_lora_weights.safetensors`; diffusers' `load_lora_weights` reads it with the same alpha.

    `metadata` joins the file's header. Equal weights and metadata give equal bytes.
    """
    config: LoraConfig = unet.peft_config[TRAINED]  # type: ignore[index, assignment]
    header = {
        **metadata,
        "format": "pt",
        "lora_adapter_metadata": json.dumps(
            {"unet.r": config.r, "unet.lora_alpha": config.lora_alpha, "unet.target_modules": TARGETS}, sort_keys=True
        ),
    }
    tensors = {f"unet.{key}": value for key, value in lora_state(unet).items()}
    bytes_write(folder / WEIGHTS, _file_bytes(tensors, header))
    return folder / WEIGHTS


def adaptor_load(unet: nn.Module, folder: Path, *, name: str, scale: float = 1.0) -> dict[str, str]:
    """Adds the adaptor of `folder` to `unet` under `name`, active beside those already there; its file's metadata.

    Raises TrainerError(BAD_ADAPTOR) that names the key, shapes or tensor that do not fit.
    """
    file = adaptor_read(folder)
    targets_check(unet, file)
    _inject(unet, _config_of(file), name, file.tensors)
    set_peft_model_state_dict(unet, file.tensors, adapter_name=name)
    unet.set_adapter(list(unet.peft_config))  # type: ignore[operator, arg-type]
    for _, layer in _layers(unet, name):
        layer.set_scale(name, scale)
    unet.requires_grad_(False)
    return file.metadata


def _inject(unet: nn.Module, config: LoraConfig, name: str, state: dict[str, Tensor] | None) -> None:
    """Adds the layers in fp32, without touching the global random state."""
    training = unet.training
    with torch.random.fork_rng(devices=[]):
        inject_adapter_in_model(config, unet, name, state_dict=state)
    unet._hf_peft_config_loaded = True  # type: ignore[assignment]
    unet.train(training)
    for _, layer in _layers(unet, name):
        _a(layer, name).float()
        _b(layer, name).float()


def _init_pair(layer: LoraLayer, name: str, seed: int) -> None:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))
    a = _a(layer, TRAINED).weight
    bound = 1 / math.sqrt(a[0].numel())
    with torch.no_grad():
        a.copy_(torch.empty(a.shape).uniform_(-bound, bound, generator=generator))
        _b(layer, TRAINED).weight.zero_()


def _layers(unet: nn.Module, name: str) -> list[tuple[str, LoraLayer]]:
    found = [(n, m) for n, m in unet.named_modules() if isinstance(m, LoraLayer) and name in m.lora_A]
    return sorted(found, key=lambda item: item[0])


def _a(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_A[name]  # type: ignore[return-value]


def _b(layer: LoraLayer, name: str) -> nn.Linear:
    return layer.lora_B[name]  # type: ignore[return-value]


def _config_of(file: AdaptorFile) -> LoraConfig:
    ranks = {module: file.tensors[f"{module}.lora_A.weight"].shape[0] for module in file.modules}
    return LoraConfig(
        r=next(iter(ranks.values())),
        lora_alpha=1,
        target_modules=list(file.modules),
        rank_pattern={f"^{module}": rank for module, rank in ranks.items()},
        alpha_pattern={f"^{module}": file.alpha(module, rank) for module, rank in ranks.items()},
        use_rslora=file.use_rslora,
    )


def _file_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the library itself writes metadata in a random order, which would change the digest."""
    plain = save(tensors)
    size = int.from_bytes(plain[:8], "little")
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items())), **json.loads(plain[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + plain[8 + size :]
