"""A base model in memory, whatever its family: its parts, the modules that get LoRA pairs, its samplers.

A sampler has the noise schedule of the base.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import diffusers
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from formats.models.configs import json_file_read
from formats.models.image_families import FAMILIES, FLOW, PREDICTIONS, scheduler_config_clean
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.losses import rescale_zero_terminal_snr
from trainers.core.model_files import bad_files


@dataclass(frozen=True)
class TextSettings:
    """How texts become embeddings."""

    clip_skip: int = 0
    """Layers of CLIP left out at its end, as diffusers counts them: 0 = as the family was trained."""
    max_sequence_length: int | None = None
    """Tokens for T5; None = the family's own."""
    min_chunks: int = 1
    """A text fills at least so many chunks of 75 tokens, so that texts of unequal length become equally long."""


@dataclass
class Base:
    """The live parts of one base model, frozen and in eval mode; whoever holds a Base shares its weights."""

    family: str
    """By which `families.image_family` finds what the family does in its own way: "sd1"."""
    network: Any  # diffusers and transformers have no types that mypy can use
    """The denoiser that LoRA pairs sit on: a UNet or a transformer."""
    vae: Any
    text_encoders: tuple[Any, ...]
    """In the order of the pipeline's text_encoder, text_encoder_2, ...; one that the base came without is left out."""
    tokenizers: tuple[Any, ...]
    scheduler_config: dict[str, Any]
    """The base's own scheduler_config.json, with `_class_name`."""
    pipeline_config: dict[str, Any] = field(default_factory=dict)
    """What the pipeline is built with beside its parts: SDXL's force_zeros_for_empty_prompt."""

    @property
    def network_part(self) -> str:
        """Folder of the network in the diffusers layout, and the prefix of its keys in adaptor files."""
        return FAMILIES[self.family].network

    @property
    def pipeline_class(self) -> str:
        """The class of diffusers for text to image, by name: importing it takes seconds, and only saving needs it."""
        return FAMILIES[self.family].pipeline

    def parts(self) -> dict[str, Any]:
        """The pipeline's parts by name, without the scheduler; None for what the base came without."""
        parts = {self.network_part: self.network, "vae": self.vae}
        for kind, modules in (("text_encoder", self.text_encoders), ("tokenizer", self.tokenizers)):
            parts |= {part_name(kind, index): module for index, module in enumerate(modules)}
        return dict.fromkeys(FAMILIES[self.family].optional) | parts

    def pipeline(self) -> Any:
        """A new diffusers pipeline around these very components: nothing is copied or read again."""
        pipeline = getattr(diffusers, self.pipeline_class)
        return pipeline(**self.parts(), scheduler=scheduler_of(self.scheduler_config), **self.pipeline_config)


def part_name(kind: str, index: int) -> str:
    """text_encoder, text_encoder_2, ... of `index` 0, 1, ..."""
    return f"{kind}_{index + 1}" if index else kind


TargetKind = Literal["attention", "attention+ff", "all-linear"]
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def named_targets(
    network: nn.Module, kind: TargetKind, attention: tuple[str, ...], feed_forward: tuple[str, ...]
) -> list[str]:
    """Full names of linear modules, sorted: those that end as `attention` says, also as `feed_forward` says, or all."""
    endings = {"attention": attention, "attention+ff": attention + feed_forward, "all-linear": ("",)}[kind]
    return sorted(n for n, module in network.named_modules() if isinstance(module, nn.Linear) and n.endswith(endings))


def convolutions(network: nn.Module) -> list[str]:
    """Every convolution but the first and the last of the network, sorted."""
    outer = ("conv_in", "conv_out")
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and name not in outer]
    return sorted(names)


def no_convolutions(title: str) -> None:
    raise TrainerError(
        ReasonCode.BAD_PARAMETERS, f"conv_rank has nothing to act on: {title} has no convolutions; set conv_rank=0"
    )


def clip_targets(encoder: nn.Module) -> list[str]:
    """The four projections of each of CLIP's attention layers."""
    return sorted(
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and ".self_attn." in name and name.endswith(CLIP_ATTENTION)
    )


SCHEDULERS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        FlowMatchEulerDiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )
}
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "lms": (LMSDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "unipc": (UniPCMultistepScheduler, {}),
}
FLOW_SAMPLERS = ("euler",)
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
)
FLOW_SCHEDULE_KEYS = (
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "shift_terminal",
    "time_shift_type",
)
TERMINAL_ALPHA = 2.0**-24
"""abar at the last step for samplers that divide by it, in place of 0 (zero-terminal SNR); as in diffusers' Euler."""


def scheduler_of(config: dict[str, Any], sampler: str = "default") -> Any:
    """A fresh scheduler for the base whose scheduler_config is `config`.

    A named sampler gets the base's betas, prediction type and spacing (flow: its shifts), including the defaults of the
    base's own scheduler class. Bases with zero-terminal SNR use trailing spacing, so that t = 999 is visited (Lin et
    al. 2024, "Common diffusion noise schedules and sample steps are flawed"). Raises TrainerError(BAD_PARAMETERS) for a
    sampler that does not support this kind of base.
    """
    base_scheduler = SCHEDULERS[config["_class_name"]].from_config(config)
    if config["_class_name"] == FLOW:
        return _flow(base_scheduler, sampler)
    change = {"timestep_spacing": "trailing"} if config.get("rescale_betas_zero_snr") else {}
    if sampler == "default":
        return type(base_scheduler).from_config(base_scheduler.config, **change)
    cls, extra = SAMPLERS[sampler]
    base_config = base_scheduler.config
    settings = {key: base_config[key] for key in SCHEDULE_KEYS if key in base_config} | extra | change
    if not config.get("rescale_betas_zero_snr"):
        return cls(**settings)
    if sampler == "lms":  # has no rescale_betas_zero_snr
        return cls(**settings | {"trained_betas": _rescaled(base_scheduler.betas)})
    return cls(**settings, rescale_betas_zero_snr=True)


def _flow(base_scheduler: Any, sampler: str) -> Any:
    if sampler == "default":
        return base_scheduler
    if sampler not in FLOW_SAMPLERS:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"scheduler={sampler} needs a base model that predicts noise or velocity, "
            f"but this one is a flow model; choose default or {', '.join(FLOW_SAMPLERS)}",
        )
    return SCHEDULERS[FLOW](**{key: base_scheduler.config[key] for key in FLOW_SCHEDULE_KEYS})


def _rescaled(betas_T: torch.Tensor) -> list[float]:
    """Betas with a zero-terminal SNR whose last abar is not quite 0; `betas_T` may be rescaled already."""
    rescaled_T = rescale_zero_terminal_snr(betas_T)
    before_last = torch.cumprod(1 - rescaled_T[:-1], 0)[-1]
    return [float(beta) for beta in (*rescaled_T[:-1], 1 - TERMINAL_ALPHA / before_last)]


def diffusion_scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler config of a base that predicts noise or velocity."""
    config = scheduler_config(folder)
    name, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    supported = sorted(set(SCHEDULERS) - {FLOW})
    if name not in supported:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"expected a scheduler of {', '.join(supported)}, found {name}")
    if prediction not in PREDICTIONS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type {' or '.join(PREDICTIONS)}, found {prediction}"
        )
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in SCHEDULERS[name]().config:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the scheduler config says rescale_betas_zero_snr, which {name} would ignore; use DDIMScheduler",
        )
    return config


def flow_scheduler(folder: Path) -> dict[str, Any]:
    """The scheduler config of a base that was trained by flow matching."""
    config = scheduler_config(folder)
    if config.get("_class_name") != FLOW:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected the scheduler {FLOW}, found {config.get('_class_name')}"
        )
    return config


def scheduler_config(folder: Path) -> dict[str, Any]:
    """The keys of scheduler_config.json that we read."""
    name = "scheduler/scheduler_config.json"
    with bad_files():
        return scheduler_config_clean(json_file_read(folder / name, name, allow_infinity=True), name).values
