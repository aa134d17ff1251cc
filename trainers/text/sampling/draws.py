"""Random draws of text samplers: by seed of the text, its own step and the column, so never by its neighbours."""

# B batch, S columns of a step, V vocabulary

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainers.core.noise import Purpose, stream


def token_gumbel(seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor, open_BS: Tensor, vocabulary: int) -> Tensor:
    """Standard Gumbel noise in fp64 for the open columns, 0 for others, on the CPU."""
    noise = torch.zeros(*columns_BS.shape, vocabulary, dtype=torch.float64)
    for row, place in open_BS.nonzero().tolist():
        generator = stream(seeds[row], Purpose.TOKEN, int(steps_B[row]), int(columns_BS[row, place]))
        noise[row, place] = _gumbel(generator.random(vocabulary))
    return noise


def column_gumbel(seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor) -> Tensor:
    return _gumbel(column_coins(seeds, steps_B, columns_BS).numpy())


def column_coins(seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor) -> Tensor:
    """One draw in [0, 1) for each column, fp64 on the CPU."""
    drawn = [
        [stream(seeds[row], Purpose.COIN, int(steps_B[row]), column).random() for column in columns]
        for row, columns in enumerate(columns_BS.tolist())
    ]
    return torch.tensor(drawn, dtype=torch.float64)


def _gumbel(uniform: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Tensor:
    tiny = np.finfo(np.float64).tiny
    return torch.from_numpy(-np.log(np.maximum(-np.log(np.maximum(uniform, tiny)), tiny)))
