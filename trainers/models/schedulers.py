"""Noise schedules of base models, and samplers that keep them."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

SCHEDULERS: dict[str, Any] = {
    cls.__name__: cls
    for cls in (
        DDIMScheduler,
        DDPMScheduler,
        DPMSolverMultistepScheduler,
        EulerAncestralDiscreteScheduler,
        EulerDiscreteScheduler,
        LMSDiscreteScheduler,
        PNDMScheduler,
        UniPCMultistepScheduler,
    )
}
SAMPLERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "dpm++_2m": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++", "solver_order": 2}),
}
KEPT = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "prediction_type",
    "timestep_spacing",
    "steps_offset",
)


def scheduler_of(config: dict[str, Any], sampler: str = "default") -> Any:
    """A fresh scheduler for the base whose scheduler_config is `config`.

    A named sampler keeps the base's betas, prediction type and spacing, also where the config leaves them to the
    default of the base's own class. Zero-terminal-SNR bases use trailing spacing, so that t = 999 is visited (Lin et
    al. 2024, "Common diffusion noise schedules and sample steps are flawed").
    """
    own = SCHEDULERS[config["_class_name"]].from_config(config)
    zero_terminal = bool(config.get("rescale_betas_zero_snr"))
    change = {"timestep_spacing": "trailing"} if zero_terminal else {}
    if sampler == "default":
        return type(own).from_config(own.config, **change)
    cls, extra = SAMPLERS[sampler]
    kept = {key: own.config[key] for key in KEPT if key in own.config}
    return cls(**kept | extra | change, rescale_betas_zero_snr=zero_terminal)
