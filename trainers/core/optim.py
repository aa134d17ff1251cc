"""Optimizers by name, and learning rate schedules as pure functions of the step."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from trainers.optional.module import optional_module

Schedule = Callable[[int], float]
ScheduleName = Literal["constant", "linear", "cosine", "constant_with_warmup"]
OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "adafactor", "lion"]


@dataclass(frozen=True)
class Group:
    """Parameters that share a rate; its metric is `learning_rate/<name>`."""

    name: str
    parameters: Sequence[torch.nn.Parameter]
    learning_rate: float


def schedule(name: ScheduleName, *, warmup_steps: int, total_steps: int) -> Schedule:
    """Multiplier of the learning rate at optimizer step 0, 1, ...: rises from 0 over `warmup_steps`, then as named."""

    def rest(step: int) -> float:
        return min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))

    after: dict[str, Schedule] = {
        "constant": lambda _: 1.0,
        "constant_with_warmup": lambda _: 1.0,
        "linear": lambda step: 1.0 - rest(step),
        "cosine": lambda step: 0.5 * (1.0 + math.cos(math.pi * rest(step))),
    }
    return lambda step: step / warmup_steps if step < warmup_steps else after[name](step)


def optimizer_of(
    name: OptimizerName,
    groups: Sequence[Group],
    *,
    betas: tuple[float, float],
    weight_decay: float,
    epsilon: float,
) -> torch.optim.Optimizer:
    """The optimizer of a library. TrainerError MISSING_LIBRARY: it is not installed. Groups without parameters go."""
    filled = [group for group in groups if group.parameters]
    several = len(filled) > 1
    tables: list[dict[str, Any]] = [
        {"params": list(group.parameters), "lr": group.learning_rate} | ({"name": group.name} if several else {})
        for group in filled
    ]
    if name == "adamw":
        return torch.optim.AdamW(tables, betas=betas, weight_decay=weight_decay, eps=epsilon, fused=True)
    optimizer: torch.optim.Optimizer
    if name == "adafactor":
        library = optional_module("trainers.optional.adafactor", "train")
        optimizer = library.adafactor(tables, weight_decay=weight_decay)
    elif name == "adamw8bit":
        library = optional_module("trainers.optional.bitsandbytes", "optimizers")
        optimizer = library.adamw8bit(tables, betas=betas, weight_decay=weight_decay, epsilon=epsilon)
    elif name == "prodigy":
        library = optional_module("trainers.optional.prodigy", "optimizers")
        optimizer = library.prodigy(tables, betas=betas, weight_decay=weight_decay, epsilon=epsilon)
    else:
        library = optional_module("trainers.optional.lion", "optimizers")
        optimizer = library.lion(tables, betas=betas, weight_decay=weight_decay)
    return optimizer


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step with `found_inf` set changes nothing, without the host knowing: torch's fused optimizers."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))
