"""Pairs as kohya's sd-scripts names them: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight`, `.alpha`."""

# R rank, I inputs, O outputs

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor

from trainers.image.adaptors.file import AdaptorFile, bad
from trainers.image.adaptors.kohya_places import Place, further_places, places
from trainers.image.adaptors.pairs import Pair, Pairs, layers, roots, row_norms
from trainers.image.models.base import Base

DOWN, UP, ALPHA, MAGNITUDE = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
SUFFIXES = {DOWN: DOWN, UP: UP, ALPHA: ALPHA, MAGNITUDE: MAGNITUDE, ".lora_A.weight": DOWN, ".lora_B.weight": UP}
"""How a key may end, and what it then is."""


def kohya_tensors(base: Base, pairs: Pairs) -> dict[str, Tensor]:
    """`pairs` with kohya's names for the family of `base`. Exact: only fused layers are put together anew."""
    found: dict[str, Tensor] = {}
    for name, place in places(base).items():
        mine = pairs.get(place.part, {})
        if not any(layer in mine for layer in place.layers):
            continue
        pair = _swapped(_fused(base, place, mine), place)
        found |= {name + DOWN: pair.down, name + UP: pair.up, name + ALPHA: torch.tensor(float(pair.alpha))}
        if pair.magnitude_O is not None:
            found[name + MAGNITUDE] = pair.magnitude_O.reshape(-1, *(1,) * (pair.up.ndim - 1))
    return {key: value.contiguous() for key, value in found.items()}


def kohya_pairs(base: Base, file: AdaptorFile) -> Pairs:
    """The pairs of a kohya file for `base`. Raises TrainerError(BAD_ADAPTOR) for a key that matches nothing."""
    known = further_places(base) | places(base)
    pairs: Pairs = {}
    for name, tensors in _by_name(file).items():
        if name not in known:
            raise bad(f"{name} matches no layer of the base model, which is of the family {base.family}")
        place = known[name]
        pair = _swapped(_pair(name, tensors, place), place)
        pairs.setdefault(place.part, {}).update(_split(pair, place))
    return pairs


def _by_name(file: AdaptorFile) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer by what they are."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in file.tensors.items():
        suffix = next((ending for ending in SUFFIXES if key.endswith(ending)), None)
        if suffix is None:
            raise bad(f"{key} matches nothing; expected <layer>{DOWN}, {UP}, {ALPHA} or {MAGNITUDE}")
        name = key.removesuffix(suffix)
        if name.startswith("diffusion_model."):
            name = "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")
        found.setdefault(name, {})[SUFFIXES[suffix]] = value
    return found


def _pair(name: str, tensors: Mapping[str, Tensor], place: Place) -> Pair:
    for half, other in ((DOWN, UP), (UP, DOWN)):
        if half not in tensors:
            raise bad(f"{name}{other if other in tensors else ALPHA} lacks its other half {name}{half}")
    down, up = tensors[DOWN], tensors[UP]
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise bad(f"{name} has lora_down {tuple(down.shape)} and lora_up {tuple(up.shape)}, which do not go together")
    if up.shape[0] != sum(place.num_rows):
        raise bad(f"{name} has lora_up {tuple(up.shape)}; expected {sum(place.num_rows)} rows for this base model")
    # sd-scripts takes alpha to be the rank where a file has none
    alpha = tensors.get(ALPHA, torch.tensor(float(down.shape[0])))
    if alpha.numel() != 1:
        raise bad(f"{name}{ALPHA} has shape {tuple(alpha.shape)}; expected one number")
    return Pair(down, up, float(alpha), _magnitude(name, tensors.get(MAGNITUDE), up.shape[0]))


def _magnitude(name: str, value: Tensor | None, num_rows: int) -> Tensor | None:
    if value is None:
        return None
    if value.shape[0] != num_rows or value.numel() != num_rows:
        raise bad(
            f"{name}{MAGNITUDE} has shape {tuple(value.shape)}; expected {num_rows} values, one per output: "
            "DoRA along the inputs is not supported"
        )
    return value.flatten()


def _fused(base: Base, place: Place, mine: Mapping[str, Pair]) -> Pair:
    """One pair for all layers of `place`: the downs below each other, the ups along the diagonal.

    A layer without a pair counts as zero. Readers find the single pairs again where all blocks are of one rank, so
    smaller ones are filled up with zeros.
    """
    present = {layer: mine[layer] for layer in place.layers if layer in mine}
    first = next(iter(present.values()))
    if len(place.layers) == 1:
        return first
    rank = max(pair.rank for pair in present.values())
    scaling = first.scaling if len({pair.scaling for pair in present.values()}) == 1 else 1.0
    down = torch.zeros(rank * len(place.layers), *first.down.shape[1:])
    up = torch.zeros(sum(place.num_rows), rank * len(place.layers))
    row = 0
    for index, (layer, num_rows) in enumerate(zip(place.layers, place.num_rows, strict=True)):
        if pair := present.get(layer):
            columns = slice(index * rank, index * rank + pair.rank)
            down[columns] = pair.down
            up[row : row + num_rows, columns] = pair.up * (pair.scaling / scaling)
        row += num_rows
    magnitude = _fused_magnitude(base, place, present) if first.magnitude_O is not None else None
    return Pair(down, up, scaling * len(down), magnitude)


def _fused_magnitude(base: Base, place: Place, present: Mapping[str, Pair]) -> Tensor:
    """A layer without a pair keeps the length that its own weight has."""
    known = layers(roots(base)[place.part])
    own = [None if layer not in present else present[layer].magnitude_O for layer in place.layers]
    lengths = zip(place.layers, own, strict=True)
    return torch.cat([_own_lengths(known[layer]) if m is None else m for layer, m in lengths])


def _own_lengths(layer: Any) -> Tensor:
    return row_norms(dequantize_module_weight(layer).detach().float()).cpu()


def _split(pair: Pair, place: Place) -> dict[str, Pair]:
    """The pairs of a fused one; exact where it is block-diagonal, as `_fused` makes it."""
    if len(place.layers) == 1:
        return {place.layers[0]: pair}
    ups = torch.split(pair.up, list(place.num_rows))
    magnitudes = [None] * len(ups) if pair.magnitude_O is None else torch.split(pair.magnitude_O, list(place.num_rows))
    count = len(place.layers)
    rank, rest = divmod(pair.rank, count)
    blocks = [torch.split(up, rank, dim=1) for up in ups] if rank and not rest else []
    if not blocks or any(block.any() for i, row in enumerate(blocks) for j, block in enumerate(row) if i != j):
        dense = zip(place.layers, ups, magnitudes, strict=True)
        return {layer: replace(pair, up=up.clone(), magnitude_O=m) for layer, up, m in dense}
    downs = torch.split(pair.down, rank)
    sparse = [Pair(downs[i].clone(), blocks[i][i].clone(), pair.alpha / count, magnitudes[i]) for i in range(count)]
    named = zip(place.layers, sparse, strict=True)
    return {layer: one for layer, one in named if one.down.any() or one.magnitude_O is not None}


def _swapped(pair: Pair, place: Place) -> Pair:
    """With the two halves of its rows changed over, where the original network has them the other way."""
    if not place.swapped:
        return pair
    magnitude = pair.magnitude_O
    return replace(
        pair, up=_halves_swapped(pair.up), magnitude_O=None if magnitude is None else _halves_swapped(magnitude)
    )


def _halves_swapped(values: Tensor) -> Tensor:
    first, second = values.chunk(2)
    return torch.cat([second, first])
