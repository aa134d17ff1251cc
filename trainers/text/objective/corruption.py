"""Masking, loss weights and loss normalisation of text diffusion, as pure functions.

Legend: B documents of the global batch, L positions.

Time t runs from 0 (clean) to 1 (all masked). "Batch" is the global batch of one optimizer step, over all ranks and
micro-batches; a document's position in it, 0..B-1, keys its draws.
"""

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trainers.core.noise import Purpose, integer, stream, uniform

NoiseSchedule = Literal["linear", "cosine"]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
TINY = 1e-6
"""Keeps the scheduler's weight finite at t = 0."""


def document_time(seed: int, step: int, position: int, batch_size: int, *, epsilon: float, antithetic: bool) -> float:
    """t = eps + (1 - eps) u in [eps, 1). Antithetic: u_b = (u + b / B) mod 1, one u per step (Kingma et al. 2021)."""
    if antithetic:
        u = (uniform(seed, Purpose.TIMESTEP, step) + position / batch_size) % 1.0
    else:
        u = uniform(seed, Purpose.TIMESTEP, step, position)
    return epsilon + (1 - epsilon) * u


def grid_time(index: int, count: int, *, epsilon: float) -> float:
    """t at the middle of the index-th of `count` equal intervals: the fixed grid of validation."""
    return epsilon + (1 - epsilon) * (index + 0.5) / count


def masked_share(time: float, schedule: NoiseSchedule) -> float:
    """p = 1 - alpha(t), the probability that a maskable token is masked: t, or cos(pi/2 (1 - t)). p(1) = 1."""
    return time if schedule == "linear" else math.cos(math.pi / 2 * (1 - time))


def scheduler_weight(time: float, schedule: NoiseSchedule) -> float:
    """-alpha'(t) / (1 - alpha(t)), which makes the weighted loss a bound on -log p(x) (LLaDA, eq. 3; MDLM, eq. 10)."""
    if schedule == "linear":
        return 1 / (time + TINY)
    angle = math.pi / 2 * (1 - time)
    return math.pi / 2 * math.sin(angle) / (math.cos(angle) + TINY)


def mask_draw(seed: int, purpose: Purpose, step: int, position: int, length: int) -> Floats:
    """Uniform draws rand_L in [0, 1): a token is masked where its draw is below p. Independent of p."""
    return stream(seed, purpose, step, position).random(length)


def cart_weights(masked_L: Flags, geo_p: float) -> Floats:
    """Weights of one document's masked positions by their unmasked neighbours (Dream 7B, CART); 0 elsewhere.

    w_i = 1/2 sum_{j != i} n_j P (1-P)^(|i-j|-1), where n_j = 1 if j is not masked, by one recurrence from each side:
    f_i = (1-P) f_{i-1} + P n_{i-1}.
    """
    unmasked = (~masked_L).astype(np.float64).tolist()
    left = _recurrence(unmasked, geo_p)
    right = _recurrence(unmasked[::-1], geo_p)[::-1]
    return np.where(masked_L, 0.5 * (left + right), 0.0)


def _recurrence(unmasked: Sequence[float], geo_p: float) -> Floats:
    decay = 1 - geo_p
    values = accumulate(unmasked[:-1], lambda f, n: decay * f + geo_p * n, initial=0.0)
    return np.fromiter(values, np.float64, len(unmasked))


def response_cut(seed: int, step: int, response_lengths: Sequence[int]) -> int:
    """K of `perbatch_cutoff`: the length of a uniformly drawn response of the batch, to which all responses are cut."""
    return response_lengths[integer(len(response_lengths), seed, Purpose.RESPONSE_CUT, step)]


def columns_cut(seed: int, step: int, ratio: float, response_lengths: Sequence[int]) -> int:
    """c of `resp_cutoff_ratio`: 0, or with probability `ratio` one of 1..min(response length)-1."""
    shortest = min(response_lengths)
    if shortest < 2 or uniform(seed, Purpose.COLUMNS_CUT, step, 0) >= ratio:
        return 0
    return 1 + integer(shortest - 1, seed, Purpose.COLUMNS_CUT, step, 1)


def cut_columns(lengths: Sequence[int], columns: int) -> list[int]:
    """Lengths after cutting every document at column longest - c; c is below every response length, so none is lost."""
    return [min(length, max(lengths) - columns) for length in lengths]


LossNorm = Literal["token", "sequence", "batch"]


def norm_scales(maskable_B: Sequence[int], norm: LossNorm) -> list[float]:
    """Factor for the summed loss of each document, so that the loss of the global batch is their sum.

    token: 1 / sum |M|; sequence: 1 / (|M_b| x documents with |M_b| > 0); batch: 1 / B. M are the maskable tokens, not
    the masked ones, of the global batch, so the gradient does not depend on accumulation or the number of ranks. With
    uniform logits and the scheduler's weight the expected loss is log V, log V, and log V x mean |M_b|.
    """
    if norm == "batch":
        return [1 / len(maskable_B)] * len(maskable_B)
    if norm == "token":
        total = sum(maskable_B)
        return [1 / total if total else 0.0] * len(maskable_B)
    num_nonempty = sum(count > 0 for count in maskable_B)
    return [1 / (count * num_nonempty) if count else 0.0 for count in maskable_B]
