"""The adapter of torch_xla: a TPU as torch's device. Untested: this project has none."""

import torch
import torch_xla


def device() -> torch.device:
    """The TPU of this process."""
    device: torch.device = torch_xla.device()
    return device
