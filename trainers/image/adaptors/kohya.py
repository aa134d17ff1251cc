"""Pairs as kohya's sd-scripts names them: `lora_unet_<layer>.lora_down.weight`, `.lora_up.weight`, `.alpha`.

sd-scripts flattens the path of a layer in *its* network: diffusers' own for SD 1.x and 2.x, Stability's for SDXL and
SD3, Black Forest Labs' for Flux. In the last two query, key and value are one layer, so one name can stand for several
of ours.
"""

# R rank, I inputs, O outputs

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn

from formats.models.adaptors import KOHYA_ALPHA as ALPHA
from formats.models.adaptors import KOHYA_DOWN as DOWN
from formats.models.adaptors import KOHYA_MAGNITUDE as MAGNITUDE
from formats.models.adaptors import KOHYA_UP as UP
from formats.models.adaptors import PEFT_DOWN, PEFT_UP, Names, flux_names, sd3_names, sdxl_name
from trainers.image.adaptors.pairs import TEXT_PREFIX, Pair, Pairs, bad, layers, roots, row_norms
from trainers.image.models.base import Base

SUFFIXES = {DOWN: DOWN, UP: UP, ALPHA: ALPHA, MAGNITUDE: MAGNITUDE, PEFT_DOWN: DOWN, PEFT_UP: UP}
"""Ending of a key -> the kind of its tensor."""
SINGLE_ENCODER = ("sd1", "sd2")
"""Families with one text encoder, named lora_te; several are named lora_te1, lora_te2."""
SHIFT_FIRST = ("norm_out.linear", "norm1_context.linear")
"""Layers whose rows, if they have two halves, are (scale, shift) in diffusers, (shift, scale) in the original."""


@dataclass(frozen=True)
class Place:
    """The layers of one part that a kohya name stands for, in the order of their rows."""

    part: str
    layers: tuple[str, ...]
    num_rows: tuple[int, ...]
    """Outputs of each layer."""
    swapped: bool = False
    """Whether the two halves of the rows are swapped."""


def kohya_tensors(base: Base, pairs: Pairs) -> dict[str, Tensor]:
    """`pairs` with kohya's names for the family of `base`. Exact: only the pairs of fused layers are combined."""
    tensors: dict[str, Tensor] = {}
    for name, place in _places(base).items():
        part_pairs = pairs.get(place.part, {})
        if not any(layer in part_pairs for layer in place.layers):
            continue
        pair = _swapped(_fused(base, place, part_pairs), place)
        tensors |= {name + DOWN: pair.down, name + UP: pair.up, name + ALPHA: torch.tensor(float(pair.alpha))}
        if pair.magnitude_O is not None:
            tensors[name + MAGNITUDE] = pair.magnitude_O.reshape(-1, *(1,) * (pair.up.ndim - 1))
    return {key: value.contiguous() for key, value in tensors.items()}


def kohya_pairs(base: Base, tensors: Mapping[str, Tensor]) -> Pairs:
    """The pairs of a kohya file's `tensors`. Raises TrainerError(BAD_ADAPTOR) for a key that matches nothing."""
    places_by_name = _foreign_places(base) | _places(base)
    pairs: Pairs = {}
    for name, by_kind in _by_name(tensors).items():
        if name not in places_by_name:
            raise bad(f"{name} matches no layer of the base model, which is of the family {base.family}")
        place = places_by_name[name]
        pair = _swapped(_pair(name, by_kind, place), place)
        pairs.setdefault(place.part, {}).update(_split(pair, place))
    return pairs


def _places(base: Base) -> dict[str, Place]:
    """The names in our files, one for each layer of `base` that an adaptor can change."""
    places: dict[str, Place] = {}
    for part, root in roots(base).items():
        part_layers = layers(root)
        if part == base.network_part:
            places |= _network_places(base, part, part_layers)
        else:
            prefix = _text_prefix(base, part)
            places |= {
                f"{prefix}{_flat(TEXT_PREFIX + name)}": _place(part, (name,), part_layers) for name in part_layers
            }
    return places


def _foreign_places(base: Base) -> dict[str, Place]:
    """Other names in foreign files for the same layers: diffusers' own, and with its order of rows."""
    places: dict[str, Place] = {}
    for part, root in roots(base).items():
        part_layers = layers(root)
        is_network = part == base.network_part
        for name in part_layers:
            for path in (name, name if is_network else TEXT_PREFIX + name):
                place = replace(_place(part, (name,), part_layers), swapped=False)
                places |= {prefix + _flat(path): place for prefix in _prefixes(base, part)}
    return places


def _prefixes(base: Base, part: str) -> tuple[str, ...]:
    """All prefixes in use; OneTrainer writes lora_transformer_, diffusers lora_te1_ in every family."""
    if part == base.network_part:
        return ("lora_unet_", "lora_transformer_")
    return (_text_prefix(base, part), "lora_te1_") if part == "text_encoder" else (_text_prefix(base, part),)


def _text_prefix(base: Base, part: str) -> str:
    if base.family in SINGLE_ENCODER:
        return "lora_te_"
    return {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]


def _network_places(base: Base, part: str, part_layers: Mapping[str, Any]) -> dict[str, Place]:
    named = _original_names(base, part_layers)
    return {f"lora_unet_{_flat(path)}": _place(part, names, part_layers) for path, names in named.items()}


def _original_names(base: Base, part_layers: Mapping[str, Any]) -> Names:
    match base.family:
        case "flux":
            return flux_names(part_layers)
        case "sd3":
            return sd3_names(part_layers)
        case "sdxl":
            return {sdxl_name(name, base.network.config.layers_per_block): (name,) for name in part_layers}
    return {name: (name,) for name in part_layers}


def _place(part: str, names: tuple[str, ...], part_layers: Mapping[str, Any]) -> Place:
    return Place(
        part,
        names,
        tuple(_num_outputs(part_layers[name]) for name in names),
        _is_swapped(names[0], part_layers[names[0]]),
    )


def _is_swapped(name: str, layer: Any) -> bool:
    return name.endswith(SHIFT_FIRST) and _num_outputs(layer) == 2 * int(layer.in_features)


def _num_outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _flat(path: str) -> str:
    return path.replace(".", "_")


def _by_name(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The tensors of each layer by kind."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        suffix = next((ending for ending in SUFFIXES if key.endswith(ending)), None)
        if suffix is None:
            raise bad(f"{key} matches nothing; expected <layer>{DOWN}, {UP}, {ALPHA} or {MAGNITUDE}")
        name = key.removesuffix(suffix)
        if name.startswith("diffusion_model."):
            name = "lora_unet_" + name.removeprefix("diffusion_model.").replace(".", "_")
        by_name.setdefault(name, {})[SUFFIXES[suffix]] = value
    return by_name


def _pair(name: str, tensors: Mapping[str, Tensor], place: Place) -> Pair:
    for half, other in ((DOWN, UP), (UP, DOWN)):
        if half not in tensors:
            raise bad(f"{name}{other if other in tensors else ALPHA} lacks its other half {name}{half}")
    down, up = tensors[DOWN], tensors[UP]
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise bad(f"{name} has lora_down {tuple(down.shape)} and lora_up {tuple(up.shape)}, which do not go together")
    if up.shape[0] != sum(place.num_rows):
        raise bad(f"{name} has lora_up {tuple(up.shape)}; expected {sum(place.num_rows)} rows for this base model")
    # without alpha sd-scripts uses the rank
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


def _fused(base: Base, place: Place, pairs: Mapping[str, Pair]) -> Pair:
    """One pair for all layers of `place`: the downs below each other, the ups along the diagonal.

    A layer without a pair counts as zero. Smaller blocks are padded with zeros, because readers can split the pairs
    again only if all blocks have the same rank.
    """
    present = {layer: pairs[layer] for layer in place.layers if layer in pairs}
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
    """A layer without a pair gets the row lengths of its own weight."""
    part_layers = layers(roots(base)[place.part])
    magnitudes = [present[layer].magnitude_O if layer in present else None for layer in place.layers]
    lengths = zip(place.layers, magnitudes, strict=True)
    return torch.cat([_row_lengths(part_layers[layer]) if m is None else m for layer, m in lengths])


def _row_lengths(layer: Any) -> Tensor:
    return row_norms(dequantize_module_weight(layer).detach().float()).cpu()


def _split(pair: Pair, place: Place) -> dict[str, Pair]:
    """The pairs of a fused one; exact if it is block-diagonal, as those of `_fused` are."""
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
    """With the two halves of its rows swapped, if the original network has them in the other order."""
    if not place.swapped:
        return pair
    magnitude = pair.magnitude_O
    return replace(
        pair, up=_halves_swapped(pair.up), magnitude_O=None if magnitude is None else _halves_swapped(magnitude)
    )


def _halves_swapped(values: Tensor) -> Tensor:
    first, second = values.chunk(2)
    return torch.cat([second, first])
