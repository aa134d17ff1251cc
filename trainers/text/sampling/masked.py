"""Denoising of masked text, block by block: predict every mask, commit some, again until none is left.

A pure loop over a function that computes logits. `Pick` and `Select` decide which tokens are predicted and committed;
decoding_rules.py implements them.
"""

# B batch, L length of the longest row, S columns of the block, V vocabulary

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

GIVEN = -1


@dataclass(frozen=True)
class Canvas:
    ids_BL: Tensor
    seen_BL: Tensor
    """bool: not padding."""
    start_B: Tensor
    """Column of the first mask of each row; the blocks are counted from here."""
    stop_B: Tensor
    """One past the column of its last mask."""

    def to(self, device: torch.device) -> "Canvas":
        return Canvas(*(x.to(device) for x in (self.ids_BL, self.seen_BL, self.start_B, self.stop_B)))


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


def canvas_of(texts: Sequence[Sequence[int]], *, mask_id: int, pad_id: int) -> Canvas:
    """The texts, each with at least one mask, in rows of one length."""
    length = max(len(text) for text in texts)
    ids_BL = torch.full((len(texts), length), pad_id)
    seen_BL = torch.zeros(len(texts), length, dtype=torch.bool)
    start, stop = [], []
    for row, text in enumerate(texts):
        ids_BL[row, : len(text)] = torch.tensor(text)
        seen_BL[row, : len(text)] = True
        masks = [column for column, token in enumerate(text) if token == mask_id]
        assert masks, f"text {row} has no mask"
        start.append(masks[0])
        stop.append(masks[-1] + 1)
    return Canvas(ids_BL, seen_BL, torch.tensor(start), torch.tensor(stop))


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
