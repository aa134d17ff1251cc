"""Optimizers by name, learning rate schedules, and a moving average of the weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainers.optional.libraries import optional_module

Schedule = Callable[[int], float]
ScheduleName = Literal["constant", "linear", "cosine", "constant_with_warmup"]
OptimizerName = Literal["adamw", "adamw8bit", "prodigy", "adafactor", "lion"]
PRODIGY_GROWTH = 1e300
"""Limit of the growth of prodigy's rate per step: none in effect. A checkpoint's JSON holds no infinity."""


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
    """The optimizer, without the groups that have no parameters. TrainerError MISSING_LIBRARY: it is not installed."""
    filled = [group for group in groups if group.parameters]
    several = len(filled) > 1
    tables: list[dict[str, Any]] = [
        {"params": list(group.parameters), "lr": group.learning_rate} | ({"name": group.name} if several else {})
        for group in filled
    ]
    match name:
        case "adamw":
            return torch.optim.AdamW(tables, betas=betas, weight_decay=weight_decay, eps=epsilon, fused=True)
        case "adamw8bit":
            return _adamw8bit(tables, betas=betas, weight_decay=weight_decay, epsilon=epsilon)
        case "prodigy":
            return _prodigy(tables, betas=betas, weight_decay=weight_decay, epsilon=epsilon)
        case "adafactor":
            return _adafactor(tables, weight_decay=weight_decay)
        case "lion":
            return _lion(tables, betas=betas, weight_decay=weight_decay)


def _adamw8bit(
    tables: list[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float, epsilon: float
) -> torch.optim.Optimizer:
    """AdamW with moments in 8 bits, by blocks (Dettmers et al. 2021); matrices below 4,096 numbers stay in 32."""
    library = optional_module("bitsandbytes", "optimizers")
    optimizer: torch.optim.Optimizer = library.optim.AdamW8bit(
        tables, betas=betas, weight_decay=weight_decay, eps=epsilon
    )
    return optimizer


def _prodigy(
    tables: list[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float, epsilon: float
) -> torch.optim.Optimizer:
    """Prodigy (Mishchenko and Defazio 2023) with the settings that its authors advise for diffusion models.

    Its estimate of the distance needs one rate in all groups.
    """
    optimizer: torch.optim.Optimizer = optional_module("prodigyopt", "optimizers").Prodigy(
        tables,
        betas=betas,
        weight_decay=weight_decay,
        eps=epsilon,
        use_bias_correction=True,
        safeguard_warmup=True,
        growth_rate=PRODIGY_GROWTH,
    )
    return optimizer


def _adafactor(tables: list[dict[str, Any]], *, weight_decay: float) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018) at the groups' rates: a LoRA half begins at 0, so its size says nothing.

    Loaded here alone: its module imports transformers' Trainer.
    """
    optimizer: torch.optim.Optimizer = optional_module("transformers.optimization", "train").Adafactor(
        tables, weight_decay=weight_decay, scale_parameter=False, relative_step=False, warmup_init=False
    )
    return optimizer


def _lion(tables: list[dict[str, Any]], *, betas: tuple[float, float], weight_decay: float) -> torch.optim.Optimizer:
    """Lion (Chen et al. 2023): the sign of an interpolated momentum."""
    optimizer: torch.optim.Optimizer = optional_module("lion_pytorch", "optimizers").Lion(
        tables, betas=betas, weight_decay=weight_decay
    )
    return optimizer


def skips_on_device(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step with `found_inf` set changes nothing, without the host knowing: torch's fused optimizers."""
    return bool(getattr(optimizer, "_step_supports_amp_scaling", False))


class Ema:
    """average = d_n x average + (1 - d_n) x weight after step n, with d_n = min(decay, (1 + n) / (10 + n)).

    The warm-up matters: with .9999 from the start, the average would hold a tenth of what 1,000 steps learnt.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._averages = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After optimizer step `step` (from 1)."""
        weights = [parameter.detach() for parameter in self._parameters]
        torch._foreach_lerp_(self._averages, weights, 1 - ema_decay_at(self._decay, step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold the average; afterwards the trained weights, to the last bit."""
        weights = [parameter.detach().clone() for parameter in self._parameters]
        _copy(self._averages, self._parameters)
        try:
            yield
        finally:
            _copy(weights, self._parameters)

    def state(self) -> dict[str, Tensor]:
        return {f"{index:05d}": average.cpu() for index, average in enumerate(self._averages)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        assert len(state) == len(self._averages)
        for index, average in enumerate(self._averages):
            average.copy_(state[f"{index:05d}"])


def ema_decay_at(decay: float, step: int) -> float:
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def _copy(values: Sequence[Tensor], parameters: Sequence[nn.Parameter]) -> None:
    for value, parameter in zip(values, parameters, strict=True):
        parameter.copy_(value)
