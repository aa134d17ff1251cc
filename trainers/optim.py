"""The optimizer, and learning rate schedules as pure functions of the step."""

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch

Schedule = Callable[[int], float]
ScheduleName = Literal["constant", "linear", "cosine", "constant_with_warmup"]


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


def adamw(
    parameters: Iterable[torch.nn.Parameter],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    weight_decay: float,
    epsilon: float,
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) in its fused form: it can skip an update on the device, without a sync."""
    return torch.optim.AdamW(
        list(parameters), lr=learning_rate, betas=betas, weight_decay=weight_decay, eps=epsilon, fused=True
    )
