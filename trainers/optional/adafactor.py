"""The adapter of transformers' Adafactor: its module brings the whole Trainer with it."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.optimization import Adafactor


def adafactor(groups: Sequence[dict[str, Any]], *, weight_decay: float) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018) at the groups' rates: a LoRA half begins at 0, so its size says nothing."""
    optimizer: torch.optim.Optimizer = Adafactor(  # type: ignore[no-untyped-call]  # transformers leaves it untyped
        list(groups), weight_decay=weight_decay, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer
