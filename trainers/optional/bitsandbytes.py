"""The adapter of bitsandbytes: an optimizer with 8-bit state, and linear layers in 4 bits."""

from collections.abc import Sequence
from typing import Any

import bitsandbytes
import torch
from torch import nn

LIBRARY: Any = bitsandbytes  # it has no types that mypy can use


def adamw8bit(
    groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float, epsilon: float
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, by blocks (Dettmers et al. 2021); matrices below 4,096 numbers stay in 32."""
    optimizer: torch.optim.Optimizer = LIBRARY.optim.AdamW8bit(
        list(groups), betas=betas, weight_decay=weight_decay, eps=epsilon
    )
    return optimizer


def linear_nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 4-bit NormalFloat (Dettmers et al. 2023, "QLoRA"), frozen.

    The bias, and what it computes in, keep their dtype.
    """
    linear = LIBRARY.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    linear.weight = LIBRARY.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=linear)
    linear.bias = layer.bias
    linear.support_avx512bf16_for_cpu = False  # it would lay the weights out anew in evaluation, and give other bits
    placed: nn.Module = linear.requires_grad_(False).to(device)
    return placed
