"""How a step turns masks into tokens: what it predicts, with which confidence (`Pick`), and what it commits (`Select`).

LLaDA's rules (Nie et al. 2025), the threshold of Fast-dLLM (Wu et al. 2025) and Dream's rules (Ye et al. 2025,
`diffusion_generate`). Random draws depend on the text's seed, its step count and the column, never on other rows.
"""

# B batch, S columns of a step, V vocabulary

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainers.core.noise import Purpose, stream
from trainers.text.sampling.masked import Pick, Select, StepState

KINDS = {"origin": "low_confidence", "maskgit_plus": "low_confidence", "topk_margin": "margin", "entropy": "entropy"}
"""The confidence measure of each `alg`; origin ignores it."""


def pick_llada(remasking: str, temperature: float) -> Pick:
    """Gumbel-max tokens at `temperature` (0: argmax), with the confidence that `remasking` names.

    low_confidence: the token's probability; entropy: negative entropy; margin: first minus second probability;
    random: a uniform draw (Nie et al. 2025, "LLaDA", section 2.4).
    """

    def pick(logits_BSV: Tensor, state: StepState) -> tuple[Tensor, Tensor]:
        noisy = logits_BSV
        if temperature > 0:
            noise = token_gumbel(state.seeds, state.steps_B, state.columns_BS, state.masked_BS, logits_BSV.shape[-1])
            noisy = logits_BSV + temperature * noise.to(logits_BSV.device)
        tokens_BS = noisy.argmax(-1)
        if remasking == "random":
            return tokens_BS, column_uniforms(state.seeds, state.steps_B, state.columns_BS).to(logits_BSV.device)
        return tokens_BS, token_confidence(logits_BSV.softmax(-1), tokens_BS, remasking)

    return pick


def select_evenly(confidence_BS: Tensor, state: StepState) -> Tensor:
    """The most confident tokens, equally many in each step of the block; the first steps take the remainder (LLaDA)."""
    share, rest = state.block_masks_B // state.block_steps_B, state.block_masks_B % state.block_steps_B
    return most_confident(confidence_BS, share + (state.index < rest))


def select_above(threshold: float) -> Select:
    """Every token above `threshold`, and always the most confident one (Wu et al. 2025, "Fast-dLLM")."""

    def select(confidence_BS: Tensor, state: StepState) -> Tensor:  # noqa: ARG001 - the same at every step
        best_B1 = confidence_BS.argmax(1, keepdim=True)
        return (confidence_BS > threshold).scatter(1, best_B1, value=True)

    return select


def pick_dream(alg: str, temperature: float, top_p: float, top_k: int) -> Pick:
    """Tokens sampled from logits / temperature after top-p and top-k filtering (`top_k` 0: no limit)."""

    def pick(logits_BSV: Tensor, state: StepState) -> tuple[Tensor, Tensor]:
        logits_BSV = logits_BSV / temperature if temperature > 0 else logits_BSV
        logits_BSV = top_k_filter(top_p_filter(logits_BSV, top_p), top_k)
        chosen = logits_BSV
        if temperature > 0:
            noise = token_gumbel(state.seeds, state.steps_B, state.columns_BS, state.masked_BS, logits_BSV.shape[-1])
            chosen = logits_BSV + noise.to(logits_BSV.device)
        tokens_BS = chosen.argmax(-1)
        return tokens_BS, token_confidence(logits_BSV.softmax(-1), tokens_BS, KINDS[alg])

    return pick


def select_dream(alg: str, alg_temp: float, eps: float) -> Select:
    """A step from time t to s on the linear grid 1..eps commits a share 1 - s/t of the masks; the last step all.

    origin: each token independently with that probability. Otherwise the most confident tokens, or with `alg_temp` > 0
    a sample weighted by confidence.
    """

    def select(confidence_BS: Tensor, state: StepState) -> Tensor:
        share_B = torch.tensor(
            [_committed_share(state.index, int(n), eps) for n in state.block_steps_B], dtype=torch.float64
        )
        share_B = share_B.to(confidence_BS.device)
        if alg == "origin":
            uniform_BS = column_uniforms(state.seeds, state.steps_B, state.columns_BS)
            return uniform_BS.to(confidence_BS.device) < share_B[:, None]
        count_B = (state.masked_BS.sum(1) * share_B).long()
        order_BS = sampled_order(confidence_BS, state, alg_temp) if alg_temp > 0 else confidence_BS
        return most_confident(order_BS, count_B)

    return select


def token_confidence(probabilities_BSV: Tensor, tokens_BS: Tensor, kind: str) -> Tensor:
    """Confidence (B, S). `kind`: low_confidence, margin or entropy."""
    if kind == "entropy":
        entropy_BS: Tensor = torch.special.entr(probabilities_BSV).sum(-1)
        return -entropy_BS
    if kind == "margin":
        best = probabilities_BSV.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    return probabilities_BSV.gather(-1, tokens_BS[..., None])[..., 0]


def most_confident(confidence_BS: Tensor, count_B: Tensor) -> Tensor:
    """bool (B, S): the `count_B` highest values of each row; ties go to the lower column."""
    order_BS = confidence_BS.argsort(dim=1, descending=True, stable=True)
    rank_BS = torch.empty_like(order_BS)
    rank_BS.scatter_(1, order_BS, torch.arange(order_BS.shape[1], device=order_BS.device).expand_as(order_BS))
    return rank_BS < count_B.to(rank_BS.device)[:, None]


def sampled_order(confidence_BS: Tensor, state: StepState, temperature: float) -> Tensor:
    """Scores whose descending order samples without replacement from softmax(confidence / temperature)."""
    noise_BS = column_gumbel(state.seeds, state.steps_B, state.columns_BS).to(confidence_BS.device)
    return confidence_BS / temperature + noise_BS


def top_p_filter(logits_BSV: Tensor, top_p: float) -> Tensor:
    """Leaves the smallest set of most likely tokens whose probability exceeds `top_p`; all others become -inf."""
    if top_p >= 1:
        return logits_BSV
    values, order = logits_BSV.sort(dim=-1, descending=True)
    before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > top_p)
    return logits_BSV.masked_fill(dropped, -torch.inf)


def top_k_filter(logits_BSV: Tensor, top_k: int) -> Tensor:
    if top_k <= 0 or top_k >= logits_BSV.shape[-1]:
        return logits_BSV
    least = logits_BSV.topk(top_k, dim=-1).values[..., -1:]
    return logits_BSV.masked_fill(logits_BSV < least, -torch.inf)


def _committed_share(index: int, block_steps: int, eps: float) -> float:
    if index >= block_steps - 1:
        return 1.0
    times = torch.linspace(1, eps, block_steps + 1, dtype=torch.float64)
    return float(1 - times[index + 1] / times[index])


def token_gumbel(
    seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor, masked_BS: Tensor, vocabulary: int
) -> Tensor:
    """Standard Gumbel noise (B, S, V) in fp64 on the CPU; 0 in columns that are not masked."""
    noise = torch.zeros(*columns_BS.shape, vocabulary, dtype=torch.float64)
    for row, place in masked_BS.nonzero().tolist():
        generator = stream(seeds[row], Purpose.TOKEN, int(steps_B[row]), int(columns_BS[row, place]))
        noise[row, place] = _gumbel(generator.random(vocabulary))
    return noise


def column_gumbel(seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor) -> Tensor:
    return _gumbel(column_uniforms(seeds, steps_B, columns_BS).numpy())


def column_uniforms(seeds: Sequence[int], steps_B: Tensor, columns_BS: Tensor) -> Tensor:
    """One uniform draw in [0, 1) for each column, fp64 on the CPU."""
    drawn = [
        [stream(seeds[row], Purpose.COIN, int(steps_B[row]), column).random() for column in columns]
        for row, columns in enumerate(columns_BS.tolist())
    ]
    return torch.tensor(drawn, dtype=torch.float64)


def _gumbel(uniform: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> Tensor:
    tiny = np.finfo(np.float64).tiny
    return torch.from_numpy(-np.log(np.maximum(-np.log(np.maximum(uniform, tiny)), tiny)))
