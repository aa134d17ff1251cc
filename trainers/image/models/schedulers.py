"""Samplers with the noise schedule of a base model, and how its folder describes it."""

from pathlib import Path
from typing import Any

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

from formats.models.configs import json_file_read
from formats.models.image_families import FLOW, PREDICTIONS, scheduler_config_clean
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.losses import rescale_zero_terminal_snr
from trainers.core.model_files import bad_files

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
