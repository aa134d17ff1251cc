"""The mask token's input row as a weight of its own, while the embedding stays frozen.

A causal base never saw the token, so LoRA alone could not tell its row anything. Where embedding and head are one
matrix, the head sees the trained row as well, as stock PEFT has it, but never trains it.
"""

# B batch, L length, D width

from typing import Any

import torch
from torch import Tensor, nn

from trainers.text.models.base import MASK_ROW, TextBase, input_embedding


class MaskRow(nn.Module):
    """Hangs on an embedding and gives the mask token's place this row instead of the matrix's."""

    def __init__(self, embedding: Any, mask_id: int) -> None:
        super().__init__()
        self.mask_id = mask_id
        row_D = embedding.weight[mask_id].detach()
        self.row = nn.Parameter(row_D.float().clone())
        self.original = nn.Buffer(row_D.clone(), persistent=False)
        self.handle = embedding.register_forward_hook(self._replace)

    def _replace(self, _embedding: Any, inputs: tuple[Tensor], hidden_BLD: Tensor) -> Tensor:
        masked_BL1 = (inputs[0] == self.mask_id)[..., None]
        return torch.where(masked_BL1, self.row.to(hidden_BLD.dtype), hidden_BLD)


def mask_row_of(base: TextBase) -> MaskRow | None:
    """The trained row of `base`, if it has one."""
    return getattr(input_embedding(base), MASK_ROW, None)


def mask_row_attach(base: TextBase) -> MaskRow:
    """The row, which starts as the matrix has it. A base has one at most."""
    embedding = input_embedding(base)
    if (there := mask_row_of(base)) is not None:
        return there
    row = MaskRow(embedding, base.mask_id)
    setattr(embedding, MASK_ROW, row)
    return row


@torch.no_grad()
def mask_row_load(base: TextBase, trained_D: Tensor, scale: float) -> None:
    """Moves the row by `scale` of the way that training moved it; several adaptors' ways add up."""
    row = mask_row_attach(base)
    moved = trained_D.to(row.original.device, torch.float32) - row.original.float()
    row.row.add_(scale * moved)
    row.row.requires_grad_(False)


@torch.no_grad()
def mask_row_merge(base: TextBase) -> None:
    """Writes the row into the matrix and takes it off the embedding."""
    if (row := mask_row_of(base)) is not None:
        _row_end(base, row, row.row)


@torch.no_grad()
def mask_row_remove(base: TextBase) -> None:
    """Takes the row off the embedding, whose matrix is as it was before."""
    if (row := mask_row_of(base)) is not None:
        _row_end(base, row, row.original)


def _row_end(base: TextBase, row: MaskRow, last_D: Tensor) -> None:
    embedding = input_embedding(base)
    embedding.weight[base.mask_id] = last_D.to(embedding.weight.dtype)
    row.handle.remove()
    delattr(embedding, MASK_ROW)
