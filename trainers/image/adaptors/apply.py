"""Adds adaptors to the live modules of a base model, switches them on and off, and removes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from formats.models.adaptors import PEFT_DOWN, clip_skip_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.lora import inject, lora_layers
from trainers.core.model_files import base_check, weights_folder
from trainers.image.adaptors.file import adaptor_read
from trainers.image.adaptors.pairs import TEXT_PREFIX, Pair, layers, plain_name, roots, scaled
from trainers.image.models.base import Base


class Adapted(NamedTuple):
    base: Base
    clip_skip: int
    """Of the first adaptor whose file has one; 0 if none has."""


def adaptors_apply(
    base: Base, model: InputRef, adaptors: Sequence[InputRef], folders: Sequence[Path], scales: Sequence[float]
) -> Adapted:
    """`base` with every adaptor active at its scale, and with the prediction type that they were trained with.

    The weights are shared: the adaptors are added to the modules of `base` itself; see `adaptors_switch`. Raises
    TrainerError(BAD_ADAPTOR) for an adaptor that was trained on another base model or does not fit this one.
    """
    loaded: list[tuple[InputRef, Mapping[str, str]]] = []
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        metadata = adaptor_load(base, weights_folder(folder), name=f"adaptor_{index}", scale=scale)
        base_check(adaptor, metadata, model)
        loaded.append((adaptor, metadata))
    skips = (clip_skip_of(dict(metadata), base.family) for _, metadata in loaded)
    adapted = replace(base, scheduler_config=base.scheduler_config | prediction_override(loaded))
    return Adapted(adapted, next(filter(None, skips), 0))


def prediction_override(adaptors: Sequence[tuple[InputRef, Mapping[str, str]]]) -> dict[str, str]:
    """{"prediction_type": ...} from the metadata of the adaptors' files; {} if none has it.

    Raises TrainerError(BAD_ADAPTOR) if two differ: no base can follow both.
    """
    entries = [
        (ref.name, metadata.get("prediction_type") or ref.details.get("prediction_type")) for ref, metadata in adaptors
    ]
    predictions = [(name, str(kind)) for name, kind in entries if kind]
    if len({kind for _, kind in predictions}) > 1:
        listed = ", ".join(f"{name} has {kind}" for name, kind in predictions)
        raise TrainerError(ReasonCode.BAD_ADAPTOR, f"the adaptors disagree on the prediction type: {listed}")
    return {"prediction_type": predictions[0][1]} if predictions else {}


def adaptors_switch(base: Base, *, on: bool) -> None:
    """Activates all adaptors of `base`, or none of them."""
    for model in _models(base):
        for _, layer in _layers(model):
            layer.enable_adapters(on)
        if _layers(model):
            model.requires_grad_(False)


def adaptors_remove(base: Base) -> None:
    """Puts the original layers back, so that nothing of the adaptors remains."""
    for model in _models(base):
        for name, layer in _layers(model):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
        if hasattr(model, "peft_config"):
            del model.peft_config
        if hasattr(model, "_hf_peft_config_loaded"):
            model._hf_peft_config_loaded = False


def _models(base: Base) -> tuple[Any, ...]:
    return (base.network, *base.text_encoders)


def _layers(model: Any) -> list[tuple[str, BaseTunerLayer]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def adaptor_load(base: Base, folder: Path, *, name: str, scale: float = 1.0) -> dict[str, str]:
    """Adds the adaptor of `folder` to `base` under `name`, active beside the existing ones; returns its metadata.

    Raises TrainerError(BAD_ADAPTOR) that names the key, shapes or tensor that do not fit.
    """
    adaptor = adaptor_read(base, folder)
    for part, pairs in adaptor.pairs.items():
        _add(roots(base)[part], pairs, name, scale)
    return adaptor.metadata


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
