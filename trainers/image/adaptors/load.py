"""Reads an adaptor, checks it against a base model and adds it to the live modules."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import nn

from formats.models.adaptors import PEFT_DOWN
from trainers.core.lora import inject, lora_layers
from trainers.image.adaptors.file import AdaptorFile, adaptor_open, bad, family_check
from trainers.image.adaptors.kohya import kohya_pairs
from trainers.image.adaptors.pairs import TEXT_PREFIX, Pair, Pairs, layers, pairs_check, plain_name, roots, scaled
from trainers.image.adaptors.peft_keys import peft_pairs
from trainers.image.models.base import Base


@dataclass(frozen=True)
class Adaptor:
    pairs: Pairs
    metadata: dict[str, str]
    """The entries of the file's header, unchecked."""
    file: AdaptorFile


def adaptor_load(base: Base, folder: Path, *, name: str, scale: float = 1.0) -> dict[str, str]:
    """Adds the adaptor of `folder` to `base` under `name`, active beside the existing ones; returns its metadata.

    Raises TrainerError(BAD_ADAPTOR) that names the key, shapes or tensor that do not fit.
    """
    adaptor = adaptor_read(base, folder)
    for part, pairs in adaptor.pairs.items():
        _add(roots(base)[part], pairs, name, scale)
    return adaptor.metadata


def adaptor_read(base: Base, folder: Path) -> Adaptor:
    """The adaptor of `folder`, in diffusers' or kohya's format, checked against every layer of `base`."""
    file = adaptor_open(folder)
    family_check(file, base)
    pairs = kohya_pairs(base, file) if file.format == "kohya" else peft_pairs(file)
    pairs_check(base, pairs)
    for part, by_layer in pairs.items():
        with_magnitude = [layer for layer, pair in by_layer.items() if pair.magnitude_O is not None]
        if with_magnitude and len(with_magnitude) < len(by_layer):
            without = next(layer for layer in by_layer if layer not in with_magnitude)
            raise bad(f"{part}.{without} has no DoRA magnitude, but {part}.{with_magnitude[0]} has one")
    return Adaptor(pairs, file.metadata, file)


def _add(root: nn.Module, pairs: dict[str, Pair], name: str, scale: float) -> None:
    base_layers = layers(root)
    is_dora = any(pair.magnitude_O is not None for pair in pairs.values())
    scaled_pairs = {
        layer: scaled(pair, scale, base_layers[layer].weight) if is_dora else pair for layer, pair in pairs.items()
    }
    training = root.training
    live = _live_names(root, scaled_pairs)
    # peft matches a target with the end of a name, but the keys of a state with full names
    keys = {f"{layer}{PEFT_DOWN}": pair.down for layer, pair in live.items()}
    inject(root, _config(live, is_dora), name, keys)
    with torch.no_grad():
        for live_name, layer in lora_layers(root, name):
            _fill(layer, name, scaled_pairs[plain_name(live_name)])
            if not is_dora:
                layer.set_scale(name, scale)
    names = list(root.peft_config)  # type: ignore[arg-type]
    for module in root.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(names)
    root.train(training).requires_grad_(False)


def _fill(layer: Any, name: str, pair: Pair) -> None:
    layer.lora_A[name].weight.copy_(pair.down)
    layer.lora_B[name].weight.copy_(pair.up)
    if pair.magnitude_O is not None:
        magnitude = layer.lora_magnitude_vector[name].weight
        magnitude.copy_(pair.magnitude_O.reshape(magnitude.shape))


def _live_names(root: nn.Module, pairs: dict[str, Pair]) -> dict[str, Pair]:
    """`pairs` by the names of the layers in `root`."""
    live = set(dict(root.named_modules()))
    return {layer if layer in live else TEXT_PREFIX + layer: pair for layer, pair in pairs.items()}


def _config(pairs: dict[str, Pair], is_dora: bool) -> LoraConfig:
    ranks = {layer: pair.rank for layer, pair in pairs.items()}
    return LoraConfig(
        r=next(iter(ranks.values())),
        lora_alpha=1,
        target_modules=list(pairs),
        rank_pattern={f"^{layer}": rank for layer, rank in ranks.items()},
        alpha_pattern={f"^{layer}": pair.alpha for layer, pair in pairs.items()},
        use_dora=is_dora,
    )
