"""What a manifest says of an adaptor's pairs."""

from typing import Any

from trainers.image.adaptors.pairs import Pairs


def pair_facts(pairs: Pairs) -> dict[str, Any]:
    """Layers by part, ranks and alphas that occur, and whether DoRA's magnitudes are there."""
    every = [pair for by_layer in pairs.values() for pair in by_layer.values()]
    return {
        "layers": {part: len(by_layer) for part, by_layer in pairs.items()},
        "ranks": sorted({pair.rank for pair in every}),
        "alphas": sorted({pair.alpha for pair in every}),
        "dora": any(pair.magnitude_O is not None for pair in every),
    }
