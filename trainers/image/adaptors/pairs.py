"""A LoRA adaptor in memory: a pair of matrices for each layer that it changes, whatever file it came from.

W' = W + (alpha / r) up down (Hu et al. 2021, "LoRA"). With a magnitude: W' = m (W + ...) / ||W + ...||, row by row
(Liu et al. 2024, "DoRA").
"""

# R rank, I inputs, O outputs; a convolution's down has its kernel behind I, its up is 1x1

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pair:
    """What an adaptor does to one linear or convolution layer; fp32 on the CPU."""

    down: Tensor
    """(R, I) or (R, I, height, width); peft calls it lora_A."""
    up: Tensor
    """(O, R) or (O, R, 1, 1); peft calls it lora_B."""
    alpha: float
    magnitude_O: Tensor | None = None
    """DoRA's length of each row of the new weight."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


Pairs = dict[str, dict[str, Pair]]
"""By part of the pipeline ("unet", "transformer", "text_encoder", "text_encoder_2"), then by layer. Layers of a text
encoder are named without "text_model.", which some versions of transformers have and others have not."""


def update(pair: Pair) -> Tensor:
    """(alpha / r) up down, shaped as the layer's weight."""
    product_OI = pair.up.flatten(1) @ pair.down.flatten(1)
    return (product_OI * pair.scaling).reshape(-1, *pair.down.shape[1:])


def difference(pair: Pair, weight: Tensor) -> Tensor:
    """W' - W in fp32: all that the pair adds to `weight`, DoRA's magnitude too."""
    if pair.magnitude_O is None:
        return update(pair)
    original = weight.detach().float().cpu()
    moved = original + update(pair)
    return moved * rows(pair.magnitude_O / row_norms(moved), moved) - original


def scaled(pair: Pair, scale: float, weight: Tensor) -> Pair:
    """A pair whose difference is `scale` times that of `pair`.

    Scaling alpha alone would leave DoRA's magnitude in place, and scale 0 would not be the base. So with g = 1 - s +
    s m / ||W + D||, W + s (W' - W) = g (W + (s m / (g ||W + D||)) D): each row of `up` takes its factor, and the new
    magnitude is the length of the row that results.
    """
    if scale == 1:
        return pair
    if pair.magnitude_O is None:
        return replace(pair, alpha=pair.alpha * scale)
    original = weight.detach().float().cpu()
    kept_O = pair.magnitude_O / row_norms(original + update(pair))
    gain_O = 1 - scale + scale * kept_O
    gain_O = torch.where(gain_O.abs() < 1e-6, torch.full_like(gain_O, 1e-6), gain_O)
    moved = replace(pair, up=pair.up * rows(scale * kept_O / gain_O, pair.up), magnitude_O=None)
    return replace(moved, magnitude_O=gain_O * row_norms(original + update(moved)))


def row_norms(weight: Tensor) -> Tensor:
    """Length of each output's weights, (O,)."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths


def rows(values_O: Tensor, like: Tensor) -> Tensor:
    """`values_O` shaped to multiply the rows of `like`."""
    return values_O.reshape(-1, *(1,) * (like.ndim - 1))
