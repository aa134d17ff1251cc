"""Quantizes the linear layers of a frozen network to 8 or 4 bits. LoRA pairs on them stay in fp32."""

from typing import Any, Literal

import torch
from torch import nn

from trainers.optional.libraries import optional_module

Quantization = Literal["int8", "nf4"]


def network_quantise(network: Any, kind: Quantization, device: torch.device) -> None:
    """Replaces the linear layers of the repeated blocks in place and moves the rest to `device`.

    Each layer is moved before it is quantised, so `device` never holds the whole network in its first dtype. Layers
    outside the blocks (embeddings of time and position, the last projection) are small and most sensitive: they stay.
    """
    if kind == "nf4":
        quantise = linear_nf4
        network.is_loaded_in_4bit = True  # peft looks here before it looks at the layers
    else:
        quantise = linear_int8
    for name in repeated_linears(network):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, quantise(network.get_submodule(name), device))
    _rest_move(network, device)


def repeated_linears(network: nn.Module) -> list[str]:
    """Names of the linear layers inside numbered blocks."""
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if any(part.isdigit() for part in name.split("."))]


def _rest_move(network: nn.Module, device: torch.device) -> None:
    """Replaces `network.to`, which diffusers refuses for 4-bit layers on some devices."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.device != device:
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def linear_nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 4-bit NormalFloat (Dettmers et al. 2023, "QLoRA"), frozen.

    The bias, and what it computes in, keep their dtype.
    """
    library = optional_module("bitsandbytes", "quantization")
    linear = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    linear.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=linear)
    linear.bias = layer.bias
    linear.support_avx512bf16_for_cpu = False  # it would repack the weights in evaluation, which changes bits
    placed: nn.Module = linear.requires_grad_(False).to(device)
    return placed


def linear_int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 8 bits, one scale per output, frozen; activations keep their dtype."""
    library = optional_module("torchao.quantization", "quantization")
    holder = nn.Sequential(layer.to(device))
    library.quantize_(holder, library.Int8WeightOnlyConfig())
    return holder[0].requires_grad_(False)
