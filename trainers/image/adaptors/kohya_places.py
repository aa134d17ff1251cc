"""Where kohya's names lie: which layers of a base a name like lora_unet_... stands for.

sd-scripts flattens the path of a layer in *its* network: diffusers' own for SD 1.x and 2.x, Stability's for SDXL and
SD3, Black Forest Labs' for Flux. The last two hold query, key and value in one layer, so one name can stand for several
of ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from trainers.image.adaptors.kohya_flux import Names, flux_names
from trainers.image.adaptors.kohya_sd3 import sd3_names
from trainers.image.adaptors.kohya_sdxl import sdxl_name
from trainers.image.adaptors.pairs import TEXT_PREFIX, layers, roots
from trainers.image.models.base import Base

SINGLE_ENCODER = ("sd1", "sd2")
"""Families whose text encoder is called lora_te; with several they are lora_te1, lora_te2."""
SHIFT_FIRST = ("norm_out.linear", "norm1_context.linear")
"""Layers whose two halves of rows, where they have two, are (scale, shift) in diffusers, (shift, scale) originally."""


@dataclass(frozen=True)
class Place:
    """The layers of one part that a kohya name stands for, in the order of their rows."""

    part: str
    layers: tuple[str, ...]
    num_rows: tuple[int, ...]
    """Outputs of each layer."""
    swapped: bool = False
    """The two halves of the rows change places."""


def places(base: Base) -> dict[str, Place]:
    """Every name that our files have, for each layer of `base` that an adaptor can change, once."""
    found: dict[str, Place] = {}
    for part, root in roots(base).items():
        known = layers(root)
        if part == base.network_part:
            found |= _network_places(base, part, known)
        else:
            prefix = text_prefix(base, part)
            found |= {f"{prefix}{_flat(TEXT_PREFIX + name)}": _place(part, (name,), known) for name in known}
    return found


def further_places(base: Base) -> dict[str, Place]:
    """Other names that foreign files have for the same layers: diffusers' own, and so with its order of rows."""
    found: dict[str, Place] = {}
    for part, root in roots(base).items():
        known = layers(root)
        network = part == base.network_part
        for name in known:
            for path in (name, name if network else TEXT_PREFIX + name):
                place = replace(_place(part, (name,), known), swapped=False)
                found |= {prefix + _flat(path): place for prefix in _prefixes(base, part)}
    return found


def _prefixes(base: Base, part: str) -> tuple[str, ...]:
    """All that files have been seen to use; OneTrainer's is lora_transformer_, diffusers' own lora_te1_ everywhere."""
    if part == base.network_part:
        return ("lora_unet_", "lora_transformer_")
    return (text_prefix(base, part), "lora_te1_") if part == "text_encoder" else (text_prefix(base, part),)


def text_prefix(base: Base, part: str) -> str:
    if base.family in SINGLE_ENCODER:
        return "lora_te_"
    return {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}[part]


def _network_places(base: Base, part: str, known: Mapping[str, Any]) -> dict[str, Place]:
    named = _original_names(base, known)
    return {f"lora_unet_{_flat(path)}": _place(part, names, known) for path, names in named.items()}


def _original_names(base: Base, known: Mapping[str, Any]) -> Names:
    match base.family:
        case "flux":
            return flux_names(known)
        case "sd3":
            return sd3_names(known)
        case "sdxl":
            return {sdxl_name(name, base.network.config.layers_per_block): (name,) for name in known}
    return {name: (name,) for name in known}


def _place(part: str, names: tuple[str, ...], known: Mapping[str, Any]) -> Place:
    return Place(
        part, names, tuple(_num_outputs(known[name]) for name in names), _is_swapped(names[0], known[names[0]])
    )


def _is_swapped(name: str, layer: Any) -> bool:
    return name.endswith(SHIFT_FIRST) and _num_outputs(layer) == 2 * int(layer.in_features)


def _num_outputs(layer: Any) -> int:
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)


def _flat(path: str) -> str:
    return path.replace(".", "_")
