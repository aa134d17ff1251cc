"""The adapter of prodigyopt."""

from collections.abc import Sequence
from typing import Any

import torch
from prodigyopt import Prodigy

LARGEST = 1e300
"""Stands for "as fast as it likes": a checkpoint's JSON holds no infinity."""


def prodigy(
    groups: Sequence[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float, epsilon: float
) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2023) with the settings that its authors advise for diffusion models.

    Its estimate of the distance needs one rate in all groups.
    """
    optimizer: torch.optim.Optimizer = Prodigy(
        list(groups),
        betas=betas,
        weight_decay=weight_decay,
        eps=epsilon,
        use_bias_correction=True,
        safeguard_warmup=True,
        growth_rate=LARGEST,
    )
    return optimizer
