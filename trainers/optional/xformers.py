"""The adapter of xformers: attention that never holds the whole matrix of scores."""

from typing import Any

import xformers  # noqa: F401  # diffusers finds it by itself; here its absence is noticed


def attention_use(network: Any) -> None:
    """`network`, of diffusers, computes its attention with xformers from now on."""
    network.enable_xformers_memory_efficient_attention()
