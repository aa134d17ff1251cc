"""The best update of a lower rank: singular value decomposition, layer by layer (Eckart and Young 1936)."""

# R rank, K lower rank, I inputs (of a convolution: times its kernel), O outputs

from dataclasses import replace

import torch
from torch import Tensor

from trainers.image.adaptors.pairs import Pair, difference


def lower_rank(pair: Pair, rank: int) -> Pair:
    """`pair` with its update cut to its `rank` largest singular values; alpha / r and DoRA's magnitude stay.

    The update is never formed: up = Q_u R_u and down' = Q_d R_d, so the values are those of the small R_u R_d'.
    """
    if rank >= pair.rank:
        return pair
    q_up_OR, r_up = torch.linalg.qr(pair.up.flatten(1).double())
    q_down_IR, r_down = torch.linalg.qr(pair.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    root_K = values[:rank].sqrt()
    up_OK = q_up_OR @ left[:, :rank] * root_K
    down_KI = root_K[:, None] * (right[:rank] @ q_down_IR.T)
    return replace(
        pair,
        down=down_KI.float().reshape(-1, *pair.down.shape[1:]),
        up=up_OK.float().reshape(len(up_OK), -1, *pair.up.shape[2:]),
        alpha=pair.scaling * len(root_K),
    )


def error_sums(wanted: Pair, found: Pair, weight: Tensor) -> tuple[float, float]:
    """Squared Frobenius norms of what `found` misses of the difference that `wanted` makes, and of that difference."""
    whole = difference(wanted, weight).double()
    missed = whole - difference(found, weight).double()
    return float(missed.square().sum()), float(whole.square().sum())
