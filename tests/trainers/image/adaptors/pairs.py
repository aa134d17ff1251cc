"""Adaptors with random pairs, for tests."""

import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from trainers.image.adaptors.pairs import Pair, Pairs, layers, roots, row_norms
from trainers.image.models.base import Base


def random_pair(layer: Any, *, rank: int = 4, alpha: float = 8, dora: bool = False, seed: int = 0) -> Pair:
    """Of the layer's shape; the update is small beside the weight."""
    generator = torch.Generator().manual_seed(seed)
    shape = layer.weight.shape
    down = torch.randn((rank, *shape[1:]), generator=generator) / shape[1:].numel() ** 0.5
    up = torch.randn((shape[0], rank, *(1,) * (len(shape) - 2)), generator=generator) / 20
    lengths = row_norms(layer.weight.float()) * (1 + 0.2 * torch.rand(shape[0], generator=generator)) if dora else None
    return Pair(down, up, alpha, lengths)


def random_pairs(base: Base, selects: Callable[[str, nn.Module], bool], *, text: bool = False, **kwargs: Any) -> Pairs:
    """A pair on each layer of the network that is `wanted`, and on the attention of the text encoders."""
    parts = {base.network_part: selects} | (dict.fromkeys(list(roots(base))[1:], _text_attention) if text else {})
    return {
        part: {
            name: random_pair(layer, seed=zlib.crc32(f"{part}.{name}".encode()), **kwargs)
            for name, layer in layers(roots(base)[part]).items()
            if chosen(name, layer)
        }
        for part, chosen in parts.items()
    }


def in_blocks(name: str, _: nn.Module) -> bool:
    """Every linear layer and convolution but the outermost ones."""
    return "block" in name


def pairs_equal(one: Pairs, other: Pairs) -> bool:
    """To the last bit."""
    return {p: set(by) for p, by in one.items()} == {p: set(by) for p, by in other.items()} and all(
        _same(pair, other[part][layer]) for part, by_layer in one.items() for layer, pair in by_layer.items()
    )


def _same(one: Pair, other: Pair) -> bool:
    def same(a: Tensor | None, b: Tensor | None) -> bool:
        return a is b or (a is not None and b is not None and torch.equal(a, b))

    return (
        torch.equal(one.down, other.down)
        and torch.equal(one.up, other.up)
        and one.alpha == other.alpha
        and same(one.magnitude_O, other.magnitude_O)
    )


def _text_attention(name: str, _: nn.Module) -> bool:
    return ".self_attn." in name
