"""Dream's way to read and commit tokens (Ye et al. 2025, `diffusion_generate`)."""

# B batch, S columns of a step, V vocabulary

import torch
from torch import Tensor

from trainers.text.sampling.draws import column_coins, token_gumbel
from trainers.text.sampling.masked import At, Pick, Select, drawn_order, surest, token_confidence

KINDS = {"origin": "low_confidence", "maskgit_plus": "low_confidence", "topk_margin": "margin", "entropy": "entropy"}
"""The confidence of each `alg`; origin has no use for it."""


def pick_dream(alg: str, temperature: float, top_p: float, top_k: int) -> Pick:
    """Tokens drawn from the logits / temperature, cut to `top_p` of the mass and to `top_k` tokens (0: all)."""

    def pick(logits_BSV: Tensor, at: At) -> tuple[Tensor, Tensor]:
        logits_BSV = logits_BSV / temperature if temperature > 0 else logits_BSV
        logits_BSV = top_k_kept(top_p_kept(logits_BSV, top_p), top_k)
        chosen = logits_BSV
        if temperature > 0:
            noise = token_gumbel(at.seeds, at.steps_B, at.columns_BS, at.open_BS, logits_BSV.shape[-1])
            chosen = logits_BSV + noise.to(logits_BSV.device)
        tokens_BS = chosen.argmax(-1)
        return tokens_BS, token_confidence(logits_BSV.softmax(-1), tokens_BS, KINDS[alg])

    return pick


def select_dream(alg: str, alg_temp: float, eps: float) -> Select:
    """From time t to s of the linear grid 1 .. eps a share 1 - s/t of the masks is committed; at the last step all.

    origin: each by its own coin; else the surest, or at `alg_temp` > 0 a draw that prefers them.
    """

    def select(confidence_BS: Tensor, at: At) -> Tensor:
        share_B = torch.tensor([_share(at.index, int(n), eps) for n in at.block_steps_B], dtype=torch.float64)
        share_B = share_B.to(confidence_BS.device)
        if alg == "origin":
            return column_coins(at.seeds, at.steps_B, at.columns_BS).to(confidence_BS.device) < share_B[:, None]
        count_B = (at.open_BS.sum(1) * share_B).long()
        order_BS = drawn_order(confidence_BS, at, alg_temp) if alg_temp > 0 else confidence_BS
        return surest(order_BS, count_B)

    return select


def top_p_kept(logits_BSV: Tensor, top_p: float) -> Tensor:
    """The likeliest tokens until their mass passes `top_p`, the one that passes it included; others -inf."""
    if top_p >= 1:
        return logits_BSV
    values, order = logits_BSV.sort(dim=-1, descending=True)
    before = values.softmax(-1).cumsum(-1) - values.softmax(-1)
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter(-1, order, before > top_p)
    return logits_BSV.masked_fill(dropped, -torch.inf)


def top_k_kept(logits_BSV: Tensor, top_k: int) -> Tensor:
    if top_k <= 0 or top_k >= logits_BSV.shape[-1]:
        return logits_BSV
    least = logits_BSV.topk(top_k, dim=-1).values[..., -1:]
    return logits_BSV.masked_fill(logits_BSV < least, -torch.inf)


def _share(index: int, block_steps: int, eps: float) -> float:
    if index >= block_steps - 1:
        return 1.0
    times = torch.linspace(1, eps, block_steps + 1, dtype=torch.float64)
    return float(1 - times[index + 1] / times[index])
