"""Compilation of a network by its repeated blocks: blocks of one kind and shape share what is compiled once.

The whole network as one graph takes minutes for each shape. The worker keeps the compiler's caches between jobs
(`worker.sandbox.wall`).
"""

from typing import Any

import torch
from torch import nn

REPEATED = {
    "BasicTransformerBlock",
    "ResnetBlock2D",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
}
"""Classes of diffusers; nearly all work of a step is in them."""
COMPILATIONS_PER_CODE = 64
"""Blocks of one class differ in widths, and run with and without gradients; torch gives up after 8."""


def blocks_compile(network: nn.Module, *, dynamic: bool, backend: Any = "inductor") -> list[nn.Module]:
    """Compiles each repeated block in place when it is first called; returns the blocks.

    dynamic: images have several shapes, so sizes stay symbolic instead of one compilation for each.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, COMPILATIONS_PER_CODE)
    blocks = [module for module in network.modules() if type(module).__name__ in REPEATED]
    assert blocks, f"{type(network).__name__} has none of the blocks that are compiled"
    for block in blocks:
        block.compile(dynamic=True if dynamic else None, backend=backend)
    return blocks
