"""Logits made by hand, for tests of the loop of masked samplers."""

import torch
from torch import Tensor

VOCABULARY, MASK, PAD = 12, 11, 10
TABLE = torch.randn(VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def toy(ids_BL: Tensor) -> Tensor:
    """Logits that depend on every token of the row and on the place: a network small enough to think about."""
    seen = TABLE[ids_BL]
    places = torch.arange(ids_BL.shape[1], dtype=torch.float64)[:, None]
    return 2 * torch.sin(
        seen.cumsum(1) + seen.flip(1).cumsum(1).flip(1) + places * 0.7 + torch.arange(VOCABULARY) * 1.3
    )


def ask(ids_BL: Tensor, columns_BS: Tensor, fresh: bool) -> Tensor:
    del fresh
    return toy(ids_BL).gather(1, columns_BS[..., None].expand(-1, -1, VOCABULARY))
