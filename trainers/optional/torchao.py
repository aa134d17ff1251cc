"""The adapter of torchao: linear layers in 8 bits."""

import torch
from torch import nn
from torchao.quantization import Int8WeightOnlyConfig, quantize_


def linear_int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 8 bits, one scale per output, frozen; activations keep their dtype."""
    holder = nn.Sequential(layer.to(device))
    quantize_(holder, Int8WeightOnlyConfig())
    return holder[0].requires_grad_(False)
