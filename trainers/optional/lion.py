"""The adapter of lion-pytorch."""

from collections.abc import Sequence
from typing import Any

import torch
from lion_pytorch import Lion


def lion(groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    """Lion (Chen et al. 2023): the sign of an interpolated momentum."""
    optimizer: torch.optim.Optimizer = Lion(list(groups), betas=betas, weight_decay=weight_decay)
    return optimizer
