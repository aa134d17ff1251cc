"""What is denoised: token ids with masks in them, one row per text, right-padded."""

# B batch, L length of the longest row

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
