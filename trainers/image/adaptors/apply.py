"""Puts a job's adaptors on its base model, switches them on and off, and removes them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from peft.tuners.tuners_utils import BaseTunerLayer

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.adaptor_files import base_check, weights_folder
from trainers.image.adaptors.file import clip_skip_of
from trainers.image.adaptors.load import adaptor_load
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
