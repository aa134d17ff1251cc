"""A job's base model as its parameters want it: dtype, quantisation, attention, memory, prediction type."""

from dataclasses import replace
from typing import Any

import torch

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.context import JobContext
from trainers.core.quantization import network_quantise
from trainers.image.models.base import Base
from trainers.image.models.load import load_base
from trainers.image.training.family_check import family_check
from trainers.optional.module import optional_module

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def precision_on(device: torch.device) -> str:
    """What `mixed_precision` auto means on a device."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def base_load(job: JobContext[ImageLoraParams]) -> Base:
    """The frozen base on the job's device."""
    params = job.params
    base = _loaded(job)
    family_check(base, params)
    if params.attention == "xformers":
        optional_module("trainers.optional.xformers", "xformers").attention_use(base.network)
    if params.gradient_checkpointing:
        base.network.enable_gradient_checkpointing()
    return base


def prediction_overridden(base: Base, params: ImageLoraParams) -> Base:
    """The same parts with the prediction type that is trained for; it holds for samples of the training too."""
    if not params.prediction_type:
        return base
    return replace(base, scheduler_config=base.scheduler_config | {"prediction_type": params.prediction_type})


def encoders_free(base: Base, *, vae: bool, text: bool) -> None:
    """Gives back the memory of what only the encoding needed."""
    modules: list[Any] = [base.vae] if vae else []
    for module in [*modules, *(base.text_encoders if text else ())]:
        module.to("meta")


def _loaded(job: JobContext[ImageLoraParams]) -> Base:
    params, device = job.params, job.processes.device
    dtype = DTYPES[params.mixed_precision]
    if params.base_quantization == "none":
        return load_base(job.model, dtype, device)
    base = load_base(job.model, dtype, "cpu")
    network_quantise(base.network, params.base_quantization, device)
    for module in (base.vae, *base.text_encoders):
        module.to(device)
    return base
