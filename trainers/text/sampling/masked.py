"""Denoises masked text block by block: predicts every mask, commits some, repeats until no mask is left.

A pure loop over a function that computes logits, with or without cache and guidance. `Pick` and `Select` decide which
tokens are predicted and committed; decoding_rules.py implements them.
"""

# B batch, L length of the longest row, S columns of the block, D width, V vocabulary

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from trainers.text.models.attention import Cache
from trainers.text.models.base import TextBase, cache_fill, hidden_cached, hidden_masked, logits

FROM_INPUT = -1
"""In a trace: the token was not a mask in the input."""


@dataclass(frozen=True)
class Canvas:
    """Token ids with masks among them, one row per text, padded on the right."""

    ids_BL: Tensor
    attention_BL: Tensor
    """bool: not padding."""
    start_B: Tensor
    """Column of each row's first mask, where its first block begins."""
    stop_B: Tensor
    """One past the column of each row's last mask."""

    def to(self, device: torch.device) -> "Canvas":
        return Canvas(*(x.to(device) for x in (self.ids_BL, self.attention_BL, self.start_B, self.stop_B)))


class Logits(Protocol):
    def __call__(self, ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        """Logits (B, S, V) of the tokens at `columns_BS`.

        `fresh`: a block begins, whose columns are `columns_BS`, so caches must be refilled; later calls for it are for
        some of its columns.
        """
        ...


@dataclass(frozen=True)
class StepState:
    """Progress of the denoising: all that a random draw or a schedule may depend on."""

    seeds: Sequence[int]
    """One per row."""
    steps_B: Tensor
    """On the CPU: steps of each row so far; steps in which a row had nothing to fill do not count."""
    columns_BS: Tensor
    """Columns of the block, in order, without some that are not masked."""
    masked_BS: Tensor
    """bool: still masked."""
    block_masks_B: Tensor
    """On the CPU: masks in each row's block before its first step."""
    index: int
    """Index of the step in its block."""
    block_steps_B: Tensor
    """On the CPU: steps that each row's block takes."""


Pick = Callable[[Tensor, StepState], tuple[Tensor, Tensor]]
"""(logits_BSV fp64, state) -> tokens (B, S) and confidences (B, S), fp64."""
Select = Callable[[Tensor, StepState], Tensor]
"""(confidences_BS, state) -> bool (B, S): the masked tokens to commit."""


@dataclass(frozen=True)
class Denoised:
    ids_BL: Tensor
    trace_BL: Tensor
    """Step at which each position was committed, counted from 0 per row; FROM_INPUT where it was not a mask."""
    forwards: int
    """Number of forward passes."""
    finished: bool
    """False if stopped early, with masks left."""


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
    """Fills every mask of `canvas`. `steps` are divided over the blocks, at least one each; None: one step per mask.

    Never predicts the mask token or a token of `suppress`. The result of a row does not depend on the other rows.
    Calls `on_step(ids_BL)` after each step. A step waits for the device once, for the number of masks; logits are
    computed, and converted to fp64, where a token may be committed.
    """
    ids, trace = _longer(canvas.ids_BL), _longer(torch.full_like(canvas.ids_BL, FROM_INPUT))
    ids_BL, trace_BL = ids[:, :-1], trace[:, :-1]
    steps_B = torch.zeros(len(ids_BL), dtype=torch.long)
    forwards, blocks = 0, _blocks(canvas, block_size)
    blocks_B = ((canvas.stop_B - canvas.start_B + block_size - 1) // block_size).cpu()
    for number, (block_BS, inside_BS) in enumerate(blocks):
        block_masks_B = _still_masked(ids_BL, block_BS, inside_BS, mask_id).sum(1).cpu()
        shared_B = block_masks_B if steps is None else steps // blocks_B + (number < steps % blocks_B)
        block_steps_B = shared_B.clamp(min=1)
        for index in range(max(int(block_steps_B.max()), int(block_masks_B.max()))):
            masked_BS = _still_masked(ids_BL, block_BS, inside_BS, mask_id)
            counts_B = masked_BS.sum(1).cpu()
            if not bool(counts_B.any()):
                break
            if should_stop and should_stop():
                return Denoised(ids_BL, trace_BL, forwards, finished=False)
            columns_BS = block_BS
            if index > 0:
                columns_BS, masked_BS = _masked_first(block_BS, masked_BS, int(counts_B.max()))
            logits_BSV = _without(logits(ids_BL, columns_BS, index == 0), [mask_id, *suppress])
            state = StepState(seeds, steps_B, columns_BS, masked_BS, block_masks_B, index, block_steps_B)
            tokens_BS, confidence_BS = pick(logits_BSV, state)
            commit_BS = select(confidence_BS.masked_fill(~masked_BS, -torch.inf), state) & masked_BS
            _commit(ids, columns_BS, tokens_BS, commit_BS)
            _commit(trace, columns_BS, steps_B.to(ids_BL.device)[:, None].expand_as(columns_BS), commit_BS)
            steps_B = steps_B + (counts_B > 0)
            forwards += 1
            if on_step:
                on_step(ids_BL)
    return Denoised(ids_BL, trace_BL, forwards, finished=True)


def canvas_of(texts: Sequence[Sequence[int]], *, mask_id: int, pad_id: int) -> Canvas:
    """Pads the texts, each of which has at least one mask, to one length."""
    length = max(len(text) for text in texts)
    ids_BL = torch.full((len(texts), length), pad_id)
    attention_BL = torch.zeros(len(texts), length, dtype=torch.bool)
    start, stop = [], []
    for row, text in enumerate(texts):
        ids_BL[row, : len(text)] = torch.tensor(text)
        attention_BL[row, : len(text)] = True
        masks = [column for column, token in enumerate(text) if token == mask_id]
        assert masks, f"text {row} has no mask"
        start.append(masks[0])
        stop.append(masks[-1] + 1)
    return Canvas(ids_BL, attention_BL, torch.tensor(start), torch.tensor(stop))


def _blocks(canvas: Canvas, block_size: int) -> list[tuple[Tensor, Tensor]]:
    """Columns (B, S) of each block, and which of them lie between the row's first and last mask."""
    span = int((canvas.stop_B - canvas.start_B).max())
    size = min(block_size, span)
    offsets_S = torch.arange(size, device=canvas.ids_BL.device)
    blocks = []
    for first in range(0, span, size):
        columns_BS = canvas.start_B[:, None] + first + offsets_S
        inside_BS = columns_BS < canvas.stop_B[:, None]
        blocks.append((torch.minimum(columns_BS, canvas.stop_B[:, None] - 1), inside_BS))
    return blocks


def _still_masked(ids_BL: Tensor, columns_BS: Tensor, inside_BS: Tensor, mask_id: int) -> Tensor:
    return (ids_BL.gather(1, columns_BS) == mask_id) & inside_BS


def _masked_first(columns_BS: Tensor, masked_BS: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The first `most` columns after all masked ones were moved to the front, in their order, and which are masked."""
    if most == columns_BS.shape[1]:
        return columns_BS, masked_BS
    order_BS = masked_BS.byte().argsort(dim=1, descending=True, stable=True)[:, :most]
    return columns_BS.gather(1, order_BS), masked_BS.gather(1, order_BS)


def _without(logits_BSV: Tensor, excluded: Sequence[int]) -> Tensor:
    logits_BSV = logits_BSV.double()
    logits_BSV[..., list(excluded)] = -torch.inf
    return logits_BSV


def _longer(values_BL: Tensor) -> Tensor:
    """A copy with one more column, where `_commit` writes what is not committed."""
    return torch.nn.functional.pad(values_BL, (0, 1))


def _commit(longer: Tensor, columns_BS: Tensor, values_BS: Tensor, commit_BS: Tensor) -> None:
    """Writes committed positions only, since clamped columns may repeat a position.

    An index by `commit_BS` instead of the additional column would wait for the device.
    """
    longer.scatter_(1, columns_BS.masked_fill(~commit_BS, longer.shape[1] - 1), values_BS.to(longer.dtype))


def plain_logits(base: TextBase, attention_BL: Tensor) -> Logits:
    """Every step computes complete rows; the head only computes `columns_BS`."""
    padding_BL = None if bool(attention_BL.all()) else attention_BL

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:  # noqa: ARG001 - nothing is cached
        hidden_BLD = hidden_masked(base, ids_BL, padding_BL)
        return logits(base, _at(hidden_BLD, _heads(base, columns_BS)))

    return compute


def cached_logits(base: TextBase, attention_BL: Tensor, kind: Literal["prefix", "dual"]) -> Logits:
    """The first step of a block computes complete rows; later steps compute some columns and cache the rest.

    prefix: computes the block and everything after it; dual: only the block (Wu et al. 2025, "Fast-dLLM"). With Dream's
    shift also the column before the block, which predicts the block's first token.
    """
    padding_BL = None if bool(attention_BL.all()) else attention_BL
    last_B1 = attention_BL.sum(1, keepdim=True) - 1
    blocks: list[tuple[Cache, Tensor]] = []

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        heads_BS = _heads(base, columns_BS)
        if fresh:
            hidden_BLD, cache = cache_fill(base, ids_BL, padding_BL)
            stop_B1 = last_B1 if kind == "prefix" else columns_BS[:, -1:]
            blocks[:] = [(cache, _columns_between(heads_BS[:, :1], stop_B1))]
            return logits(base, _at(hidden_BLD, heads_BS))
        ((cache, active_BS),) = blocks
        hidden_BSD = hidden_cached(base, ids_BL.gather(1, active_BS), active_BS, cache)
        return logits(base, _at(hidden_BSD, heads_BS - active_BS[:, :1]))

    return compute


def _columns_between(first_B1: Tensor, stop_B1: Tensor) -> Tensor:
    """The columns from first to stop of each row; shorter ranges repeat their last column."""
    width = int((stop_B1 - first_B1).max()) + 1
    return torch.minimum(first_B1 + torch.arange(width, device=first_B1.device), stop_B1)


def guided_logits(both: Logits, input_BL: Tensor, *, mask_id: int, scale: float) -> Logits:
    """Classifier-free guidance: u + (scale + 1)(c - u), where u is computed with the input tokens masked (LLaDA).

    `both` computes 2 B rows: the conditional ones, then the unconditional ones.
    """

    def compute(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        unconditional_BL = ids_BL.masked_fill(input_BL, mask_id)
        logits_BSV = both(torch.cat([ids_BL, unconditional_BL]), torch.cat([columns_BS, columns_BS]), fresh)
        conditional, unconditional = logits_BSV.double().chunk(2)
        return unconditional + (scale + 1) * (conditional - unconditional)

    return compute


def _heads(base: TextBase, columns_BS: Tensor) -> Tensor:
    """Columns of the hidden states that predict `columns_BS`: with a shift one to the left, except column 0."""
    return (columns_BS - 1).clamp(min=0) if base.shift else columns_BS


def _at(hidden_BLD: Tensor, columns_BS: Tensor) -> Tensor:
    return hidden_BLD.gather(1, columns_BS[..., None].expand(-1, -1, hidden_BLD.shape[-1]))
