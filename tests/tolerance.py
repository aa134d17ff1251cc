"""How far equal mathematics may lie apart on any machine.

For two implementations, two batch sizes, two memory layouts: each sums in an order of its own, and so does each
instruction set. A float32 sum of n products then moves by about sqrt(n) x 6e-8 of its size: 4e-6 for n = 4,096.
Two equal runs of ours on one machine need none of this: they are compared bit by bit.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

PRODUCT = {"rtol": 1e-5, "atol": 1e-6}
"""float32: a few sums or products of numbers of order 1, as a weight update or a loss of given logits."""
NETWORK = {"rtol": 1e-4, "atol": 5e-5}
"""float32: what a whole network answers, or several steps of a sampler around it. Real differences start near 1e-3."""
GRADIENT = {"rtol": 1e-4, "atol": 5e-6}
"""float32: sums over all tokens of a batch, backwards through a network; its entries are smaller than its answers."""
CURVE = 1e-4
"""Relative: the losses of a few optimizer steps, whose rounding Adam's division makes larger."""
IMAGE_STEPS = 2
"""Of 255: a pixel near the edge between two values falls to either side, and guidance multiplies what decides it."""
IMAGE_SHARE = 0.02
"""Of an image's values: so many may differ at all. A NETWORK error in [0, 1] moves 255 x 5e-5 = 1.3% of them."""


def assert_near(ours: Tensor, reference: Tensor, bound: dict[str, float] = NETWORK) -> None:
    torch.testing.assert_close(ours, reference, **bound)


def assert_same_image(ours: Any, reference: Any) -> None:
    """Images of whole numbers up to 255, or of floats up to 1."""
    one, other = (_steps(image) for image in (ours, reference))
    assert one.shape == other.shape
    difference = np.abs(one - other)
    most, share = difference.max(), (difference > 0.5).mean()
    assert most <= IMAGE_STEPS and share <= IMAGE_SHARE, f"{most} of 255 on {share:.2%} of the values"


def _steps(image: Any) -> np.ndarray[Any, Any]:
    pixels = np.asarray(image)
    return pixels * 255.0 if np.issubdtype(pixels.dtype, np.floating) else pixels.astype(float)
