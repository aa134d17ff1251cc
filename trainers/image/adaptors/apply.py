"""A job's adaptors on a job's base model."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from peft.tuners.tuners_utils import BaseTunerLayer

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.image.adaptors.file import clip_skip_of
from trainers.image.adaptors.load import adaptor_load
from trainers.image.models.base import Base


class Adapted(NamedTuple):
    base: Base
    clip_skip: int
    """Of the first adaptor that says with which it was trained; 0 where none does."""


def adaptors_apply(
    base: Base, model: InputRef, adaptors: Sequence[InputRef], folders: Sequence[Path], scales: Sequence[float]
) -> Adapted:
    """`base` with every adaptor active at its scale, and with the prediction type that they were trained with.

    The weights are shared: the parts of `base` themselves get the adaptors; `adaptor_switch` turns them off and
    on again. Raises TrainerError(BAD_ADAPTOR) for one that was trained on another base model, or that does not fit.
    """
    read: list[tuple[InputRef, Mapping[str, str]]] = []
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        metadata = adaptor_load(base, weights_folder(folder), name=f"adaptor_{index}", scale=scale)
        base_check(adaptor, metadata, model)
        read.append((adaptor, metadata))
    skips = (clip_skip_of(dict(metadata), base.family) for _, metadata in read)
    adapted = replace(base, scheduler_config=base.scheduler_config | prediction_override(read))
    return Adapted(adapted, next(filter(None, skips), 0))


def prediction_override(adaptors: Sequence[tuple[InputRef, Mapping[str, str]]]) -> dict[str, str]:
    """{"prediction_type": ...} that adaptors were trained with, by their files' metadata; {} where none says it.

    Raises TrainerError(BAD_ADAPTOR) where two say different things: no base can follow both.
    """
    said = [
        (ref.name, metadata.get("prediction_type") or ref.details.get("prediction_type")) for ref, metadata in adaptors
    ]
    predictions = [(name, str(kind)) for name, kind in said if kind]
    if len({kind for _, kind in predictions}) > 1:
        named = ", ".join(f"{name} has {kind}" for name, kind in predictions)
        raise TrainerError(ReasonCode.BAD_ADAPTOR, f"the adaptors disagree on the prediction type: {named}")
    return {"prediction_type": predictions[0][1]} if predictions else {}


def adaptors_switch(base: Base, *, on: bool) -> None:
    """All adaptors of `base` active, or none; without any it does nothing."""
    for model in _models(base):
        for _, layer in _layers(model):
            layer.enable_adapters(on)
        if _layers(model):
            model.requires_grad_(False)


def adaptors_remove(base: Base) -> None:
    """Puts the very layers back that the adaptors were laid on, so that nothing of them is left."""
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
