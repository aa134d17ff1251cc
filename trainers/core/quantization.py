"""A frozen network whose linear layers lie in 8 or 4 bits. LoRA pairs on them stay in fp32."""

from typing import Any, Literal

import torch
from torch import nn

from trainers.optional.module import optional_module

Quantization = Literal["int8", "nf4"]


def network_quantise(network: Any, kind: Quantization, device: torch.device) -> None:
    """Replaces the linear layers of the repeated blocks in place and moves the rest to `device`.

    Each layer is moved before it is quantised, so `device` never holds the whole network in its first dtype. What is
    not repeated (embeddings of time and position, the last projection) is small and matters most: it stays as it is.
    """
    if kind == "nf4":
        quantise = optional_module("trainers.optional.bitsandbytes", "quantization").linear_nf4
        network.is_loaded_in_4bit = True  # peft looks here before it looks at the layers
    else:
        quantise = optional_module("trainers.optional.torchao", "quantization").linear_int8
    for name in repeated_linears(network):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, quantise(network.get_submodule(name), device))
    _rest_move(network, device)


def repeated_linears(network: nn.Module) -> list[str]:
    """Names of the linear layers inside numbered blocks."""
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if any(part.isdigit() for part in name.split("."))]


def _rest_move(network: nn.Module, device: torch.device) -> None:
    """By hand: diffusers' own `to` refuses a network with 4-bit layers on some devices."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.device != device:
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
