"""The logits functions that the text samplers ask: whole rows, with a key-value cache, with guidance."""

# B batch, L length, S columns, D width, V vocabulary

from typing import Literal

import torch
from torch import Tensor

from trainers.text.models.attention import Cache
from trainers.text.models.base import TextBase, cache_fill, hidden_cached, hidden_padded, logits
from trainers.text.sampling.masked import Logits


def plain_logits(base: TextBase, seen_BL: Tensor) -> Logits:
    """Every step computes whole rows; the head only where it is asked."""

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:  # noqa: ARG001 - nothing is cached
        hidden_BLD = hidden_padded(base, ids_BL, seen_BL)
        return logits(base, _at(hidden_BLD, _heads(base, columns_BS)))

    return ask


def cached_logits(base: TextBase, seen_BL: Tensor, kind: Literal["prefix", "dual"]) -> Logits:
    """A block begins with whole rows; its further steps compute only some columns and see the others as they were.

    prefix: the block and all after it; dual: the block alone (Wu et al. 2025, "Fast-dLLM"). With Dream's shift the
    column before the block is computed too, since the logits of the first come from there.
    """
    held: dict[str, Cache] = {}
    last_B1 = seen_BL.sum(1, keepdim=True) - 1

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        heads_BS = _heads(base, columns_BS)
        if fresh:
            hidden_BLD, held["cache"] = cache_fill(base, ids_BL, seen_BL)
            return logits(base, _at(hidden_BLD, heads_BS))
        first_B1 = heads_BS[:, :1]
        stop_B1 = last_B1 if kind == "prefix" else columns_BS[:, -1:]
        width = int((stop_B1 - first_B1).max()) + 1
        active_BS = torch.minimum(first_B1 + torch.arange(width, device=ids_BL.device), stop_B1)
        hidden_BSD = hidden_cached(base, ids_BL.gather(1, active_BS), active_BS, held["cache"])
        return logits(base, _at(hidden_BSD, heads_BS - first_B1))

    return ask


def guided_logits(both: Logits, given_BL: Tensor, *, mask_id: int, scale: float) -> Logits:
    """Classifier-free guidance: u + (scale + 1)(c - u), where u does not see what was given (LLaDA).

    `both` answers for 2 B rows: those that see, then those that do not.
    """

    def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
        blind_BL = ids_BL.masked_fill(given_BL, mask_id)
        answers = both(torch.cat([ids_BL, blind_BL]), torch.cat([columns_BS, columns_BS]), fresh)
        seeing, blind = answers.double().chunk(2)
        return blind + (scale + 1) * (seeing - blind)

    return ask


def _heads(base: TextBase, columns_BS: Tensor) -> Tensor:
    """Where the hidden states lie whose logits speak for `columns_BS`: one to the left under a shift, but for 0."""
    return (columns_BS - 1).clamp(min=0) if base.shift else columns_BS


def _at(hidden_BLD: Tensor, columns_BS: Tensor) -> Tensor:
    return hidden_BLD.gather(1, columns_BS[..., None].expand(-1, -1, hidden_BLD.shape[-1]))
