"""Denoising of masked text, block by block: predict every mask, commit some, again until none is left.

A pure loop over a logits function. How tokens and confidences are read off the logits (`Pick`) and which are committed
(`Select`) are functions too: LLaDA's are here, Dream's in dream.py.
"""

# B batch, L length, S columns of the block, V vocabulary

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainers.text.sampling.canvas import Canvas
from trainers.text.sampling.draws import column_coins, column_gumbel, token_gumbel

GIVEN = -1


class Logits(Protocol):
    def __call__(self, ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        """Logits (B, S, V) of the tokens at `columns_BS`. `fresh`: a block begins, whatever was cached is stale."""
        ...


@dataclass(frozen=True)
class At:
    """Where the denoising stands: what a draw or a schedule may depend on."""

    seeds: Sequence[int]
    """One per row."""
    steps_B: Tensor
    """Each row's own steps so far: rows that wait for others do not count."""
    columns_BS: Tensor
    open_BS: Tensor
    """bool: still masked."""
    first_open_B: Tensor
    """Masks that the row's block began with."""
    index: int
    """Of the step in its block."""
    block_steps_B: Tensor
    """Steps that a block of the row takes."""


Pick = Callable[[Tensor, At], tuple[Tensor, Tensor]]
"""(logits_BSV fp64, at) -> tokens (B, S) and confidences (B, S), fp64."""
Select = Callable[[Tensor, At], Tensor]
"""(confidences_BS, at) -> bool (B, S): commit these of the open ones."""


@dataclass(frozen=True)
class Denoised:
    ids_BL: Tensor
    trace_BL: Tensor
    """Step at which each position was committed, counted from 0 row by row; GIVEN where it was there before."""
    forwards: int
    """Times that the network was asked."""
    finished: bool
    """False: broken off, masks are left."""


@torch.no_grad()
def denoise(
    canvas: Canvas,
    logits: Logits,
    *,
    pick: Pick,
    select: Select,
    mask_id: int,
    block_size: int,
    steps: int | None,
    seeds: Sequence[int],
    suppress: Sequence[int] = (),
    on_step: Callable[[Tensor], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Denoised:
    """Fills every mask of `canvas`; `steps` are shared out over the blocks, at least one each; None: one for each mask.

    Neither the mask token nor one of `suppress` is ever predicted. A row comes out as it would alone: draws, schedule
    and trace are its own. `on_step(ids_BL)` is called after each step.
    """
    ids_BL = canvas.ids_BL.clone()
    trace_BL = torch.full_like(ids_BL, GIVEN)
    steps_B = torch.zeros(len(ids_BL), dtype=torch.long)
    forwards, blocks = 0, _blocks(canvas, block_size)
    blocks_B = (canvas.stop_B - canvas.start_B + block_size - 1) // block_size
    for number, (columns_BS, inside_BS) in enumerate(blocks):
        first_open_B = _open(ids_BL, columns_BS, inside_BS, mask_id).sum(1)
        shared_B = first_open_B if steps is None else steps // blocks_B + (number < steps % blocks_B)
        block_steps_B = shared_B.clamp(min=1)
        for index in range(max(int(block_steps_B.max()), int(first_open_B.max()))):
            open_BS = _open(ids_BL, columns_BS, inside_BS, mask_id)
            if not bool(open_BS.any()):
                break
            if should_stop and should_stop():
                return Denoised(ids_BL, trace_BL, forwards, finished=False)
            logits_BSV = _allowed(logits(ids_BL, columns_BS, index == 0), [mask_id, *suppress])
            at = At(seeds, steps_B, columns_BS, open_BS, first_open_B, index, block_steps_B)
            tokens_BS, confidence_BS = pick(logits_BSV, at)
            commit_BS = select(confidence_BS.masked_fill(~open_BS, -torch.inf), at) & open_BS
            _commit(ids_BL, columns_BS, tokens_BS, commit_BS)
            _commit(trace_BL, columns_BS, steps_B.to(ids_BL.device)[:, None].expand_as(columns_BS), commit_BS)
            steps_B = steps_B + open_BS.any(1).cpu()
            forwards += 1
            if on_step:
                on_step(ids_BL)
    return Denoised(ids_BL, trace_BL, forwards, finished=True)


def pick_llada(remasking: str, temperature: float) -> Pick:
    """Gumbel-max tokens at `temperature` (0: the likeliest), and how sure the network is of them, as `remasking` says.

    low_confidence: the token's probability; entropy: minus the entropy; margin: first minus second probability;
    random: a coin (Nie et al. 2025, "LLaDA", section 2.4).
    """

    def pick(logits_BSV: Tensor, at: At) -> tuple[Tensor, Tensor]:
        noisy = logits_BSV
        if temperature > 0:
            noise = token_gumbel(at.seeds, at.steps_B, at.columns_BS, at.open_BS, logits_BSV.shape[-1])
            noisy = logits_BSV + temperature * noise.to(logits_BSV.device)
        tokens_BS = noisy.argmax(-1)
        if remasking == "random":
            return tokens_BS, column_coins(at.seeds, at.steps_B, at.columns_BS).to(logits_BSV.device)
        return tokens_BS, token_confidence(logits_BSV.softmax(-1), tokens_BS, remasking)

    return pick


def token_confidence(probabilities_BSV: Tensor, tokens_BS: Tensor, kind: str) -> Tensor:
    """Confidence (B, S) of low_confidence, margin or entropy."""
    if kind == "entropy":
        entropy_BS: Tensor = torch.special.entr(probabilities_BSV).sum(-1)
        return -entropy_BS
    if kind == "margin":
        best = probabilities_BSV.topk(2, dim=-1).values
        return best[..., 0] - best[..., 1]
    return probabilities_BSV.gather(-1, tokens_BS[..., None])[..., 0]


def select_evenly(confidence_BS: Tensor, at: At) -> Tensor:
    """The surest, as many in every step of the block; the remainder goes to the first steps (LLaDA)."""
    share, rest = at.first_open_B // at.block_steps_B, at.first_open_B % at.block_steps_B
    return surest(confidence_BS, share + (at.index < rest))


def above(threshold: float) -> Select:
    """All whose confidence is above `threshold`, and the surest in any case (Wu et al. 2025, "Fast-dLLM")."""

    def select(confidence_BS: Tensor, at: At) -> Tensor:
        best_BS = surest(confidence_BS, torch.ones_like(at.first_open_B))
        return (confidence_BS > threshold) | best_BS

    return select


def surest(confidence_BS: Tensor, count_B: Tensor) -> Tensor:
    """bool (B, S): the `count_B` highest of each row; of equal ones the first."""
    order_BS = confidence_BS.argsort(dim=1, descending=True, stable=True)
    rank_BS = torch.empty_like(order_BS)
    rank_BS.scatter_(1, order_BS, torch.arange(order_BS.shape[1], device=order_BS.device).expand_as(order_BS))
    return rank_BS < count_B.to(rank_BS.device)[:, None]


def drawn_order(confidence_BS: Tensor, at: At, temperature: float) -> Tensor:
    """Confidences whose order is a draw without replacement from softmax(confidence / temperature)."""
    noise_BS = column_gumbel(at.seeds, at.steps_B, at.columns_BS).to(confidence_BS.device)
    return confidence_BS / temperature + noise_BS


def _blocks(canvas: Canvas, block_size: int) -> list[tuple[Tensor, Tensor]]:
    """Columns (B, S) of each block, and which lie inside the row's canvas; blocks count from the row's start."""
    span = int((canvas.stop_B - canvas.start_B).max())
    size = min(block_size, span)
    offsets_S = torch.arange(size, device=canvas.ids_BL.device)
    found = []
    for first in range(0, span, size):
        columns_BS = canvas.start_B[:, None] + first + offsets_S
        inside_BS = columns_BS < canvas.stop_B[:, None]
        found.append((torch.minimum(columns_BS, canvas.stop_B[:, None] - 1), inside_BS))
    return found


def _open(ids_BL: Tensor, columns_BS: Tensor, inside_BS: Tensor, mask_id: int) -> Tensor:
    return (ids_BL.gather(1, columns_BS) == mask_id) & inside_BS


def _allowed(logits_BSV: Tensor, never: Sequence[int]) -> Tensor:
    logits_BSV = logits_BSV.double()
    logits_BSV[..., list(never)] = -torch.inf
    return logits_BSV


def _commit(target_BL: Tensor, columns_BS: Tensor, values_BS: Tensor, commit_BS: Tensor) -> None:
    """Only committed places are written: clamped columns may name one place twice."""
    rows_BS = torch.arange(len(target_BL), device=target_BL.device)[:, None].expand_as(columns_BS)
    target_BL[rows_BS[commit_BS], columns_BS[commit_BS]] = values_BS[commit_BS].to(target_BL.dtype)
