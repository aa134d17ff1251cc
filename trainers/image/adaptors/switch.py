"""Adaptors on a base model off, on, and gone again: the network's and the text encoders'."""

from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer

from trainers.image.models.base import Base


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
