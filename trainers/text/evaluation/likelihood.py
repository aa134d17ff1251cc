"""Upper bound of a text's negative log-likelihood under a masked diffusion model, by stratified Monte Carlo.

-log p(x) <= E_l (n / l) sum over the l masked of -log p(x_i | the others), with l uniform in 1..n (Ou et al. 2025,
"RADD", eq. 3.5; LLaDA, eq. 6). The same expectation as over times t with weight 1/t, with less variance.
"""

# T tokens of all copies, N masked tokens, D width

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainers.core.noise import Purpose, stream
from trainers.text.models.base import TextBase, head_features, head_weight, hidden_packed
from trainers.text.objective.linear_cross_entropy import linear_predicted


class Noised(NamedTuple):
    """A copy of a text with some of its scored tokens masked."""

    ids_L: NDArray[np.int64]
    masked: NDArray[np.int64]
    """Masked positions."""
    weight: float
    """n / l: weight of the masked tokens' summed nll."""


def noised(
    ids_L: NDArray[np.int32], scored_L: NDArray[np.bool_], mask_id: int, *, copies: int, seed: int, row: int
) -> list[Noised]:
    """`copies` of a text; copy k masks a share in [k, k + 1) / copies of the scored tokens, at least one."""
    places = np.flatnonzero(scored_L)
    noised_copies = []
    for k in range(copies):
        draws = stream(seed, Purpose.MASK, k, row)
        share = (k + draws.random()) / copies
        count = 1 + min(int(share * len(places)), len(places) - 1)
        masked = np.sort(draws.permutation(places)[:count])
        ids = ids_L.astype(np.int64)
        ids[masked] = mask_id
        noised_copies.append(Noised(ids, masked, len(places) / count))
    return noised_copies


@torch.no_grad()
def likelihood_bound(
    base: TextBase, ids_L: NDArray[np.int32], copies: Sequence[Noised], *, batch_size: int
) -> list[float]:
    """The bound for each copy, in nats for the complete text; their mean is the estimate.

    The softmax leaves out the mask token, as in sampling.
    """
    values: list[float] = []
    for first in range(0, len(copies), batch_size):
        values += _batch_bounds(base, ids_L, copies[first : first + batch_size])
    return values


def _batch_bounds(base: TextBase, ids_L: NDArray[np.int32], copies: Sequence[Noised]) -> list[float]:
    length = len(ids_L)
    ids_T = torch.from_numpy(np.concatenate([copy.ids_L for copy in copies]))
    hidden_TD = hidden_packed(base, ids_T.to(base.device), [length] * len(copies))
    read = [np.maximum(copy.masked - 1, 0) if base.shift else copy.masked for copy in copies]
    read_N = torch.from_numpy(np.concatenate([places + index * length for index, places in enumerate(read)]))
    targets_N = torch.from_numpy(np.concatenate([ids_L[copy.masked].astype(np.int64) for copy in copies]))
    features_ND = head_features(base, hidden_TD[read_N.to(base.device)])
    weight_VD, bias_V = head_weight(base)
    predicted = linear_predicted(features_ND, weight_VD, bias_V, targets_N.to(base.device), suppress=base.mask_id)
    parts = torch.split(predicted.nll_N.double().cpu(), [len(copy.masked) for copy in copies])
    return [copy.weight * float(part.sum()) for copy, part in zip(copies, parts, strict=True)]
