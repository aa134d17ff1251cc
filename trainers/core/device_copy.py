"""Copies of a batch to the device that do not wait for its queue."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Starts the copy: CUDA takes it from pinned memory only without waiting for all work before it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device=device, dtype=dtype or tensor.dtype, non_blocking=True)
