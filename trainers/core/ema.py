"""A moving average of weights in training: smoother than the weights themselves, and what a job gives away."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """average = d_n x average + (1 - d_n) x weight after step n, with d_n = min(decay, (1 + n) / (10 + n)).

    The warm-up matters: with .9999 from the start, 1,000 steps would hold a tenth of what was learnt.
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
        """The parameters hold the average meanwhile; the weights in training come back to the last bit."""
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
