"""How the losses of masked tokens become one number: pure functions. Legend: B documents of the global batch.

nll = CE(logits, x) w m. Counts are of maskable tokens, not of masked ones, and over the whole batch of an optimizer
step, so that the gradient is that of one large batch whatever the accumulation and the number of ranks.
"""

from collections.abc import Sequence
from typing import Literal

LossNorm = Literal["token", "sequence", "batch"]


def norm_scales(maskable_B: Sequence[int], norm: LossNorm) -> list[float]:
    """What the summed loss of each document is multiplied by.

    token: 1 / sum |M|; sequence: 1 / (|M_b| x documents with |M_b| > 0); batch: 1 / B. With uniform logits and the
    scheduler's weight the expected loss is log V, log V, and log V x mean |M_b|.
    """
    if norm == "batch":
        return [1 / len(maskable_B)] * len(maskable_B)
    if norm == "token":
        total = sum(maskable_B)
        return [1 / total if total else 0.0] * len(maskable_B)
    some = sum(count > 0 for count in maskable_B)
    return [1 / (count * some) if count else 0.0 for count in maskable_B]
