"""scheduler_config.json: the schedulers that are read, their keys and their bounds."""

import math
from typing import Any

from formats.kinds import (
    PROBABILITY,
    YES_NO,
    Cleaned,
    Kind,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    integer,
    number,
    optional,
)

FLOW = "FlowMatchEulerDiscreteScheduler"
DIFFUSION = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
)
TIMESTEPS = integer(1, 10_000)
BETA = number(1e-8, 0.9999)
SIGMA = optional(number(0, 1e6))
INFINITE = Kind("infinity", lambda value: type(value) is float and math.isinf(value))
COMMON: Kinds = {
    "num_train_timesteps": TIMESTEPS,
    "use_karras_sigmas": YES_NO,
    "use_exponential_sigmas": YES_NO,
    "use_beta_sigmas": YES_NO,
    "use_dynamic_shifting": YES_NO,
    "time_shift_type": choice("exponential", "linear"),
    "shift_terminal": optional(number(0, 1)),
}
DIFFUSION_CONFIG: Kinds = {
    **COMMON,
    "_class_name": choice(*DIFFUSION),
    "beta_start": BETA,
    "beta_end": BETA,
    "beta_schedule": choice("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid"),
    "trained_betas": optional(each(number(0, 1), 10_000)),
    "prediction_type": choice("epsilon", "v_prediction", "sample", "flow_prediction"),
    "timestep_spacing": choice("leading", "trailing", "linspace"),
    "timestep_type": choice("discrete", "continuous"),
    "steps_offset": integer(0, 1000),
    "rescale_betas_zero_snr": YES_NO,
    "set_alpha_to_one": YES_NO,
    "skip_prk_steps": YES_NO,
    "clip_sample": YES_NO,
    "clip_sample_range": number(1e-3, 1e4),
    "thresholding": YES_NO,
    "dynamic_thresholding_ratio": PROBABILITY,
    "sample_max_value": number(1e-3, 1e4),
    "variance_type": optional(
        choice("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
    ),
    "interpolation_type": choice("linear", "log_linear"),
    "sigma_min": SIGMA,
    "sigma_max": SIGMA,
    "final_sigmas_type": choice("zero", "sigma_min"),
    "solver_order": integer(1, 3),
    "algorithm_type": choice("dpmsolver", "dpmsolver++", "sde-dpmsolver", "sde-dpmsolver++"),
    "solver_type": choice("midpoint", "heun", "bh1", "bh2", "logrho"),
    "lower_order_final": YES_NO,
    "euler_at_final": YES_NO,
    "use_lu_lambdas": YES_NO,
    "use_flow_sigmas": YES_NO,
    "flow_shift": optional(number(1e-3, 1e3)),
    "lambda_min_clipped": either(number(-1e6, 1e6), INFINITE),
    "predict_x0": YES_NO,
    "disable_corrector": each(integer(0, 10_000), 10_000),
}
FLOW_CONFIG: Kinds = {
    **COMMON,
    "_class_name": choice(FLOW),
    "shift": number(1e-3, 1e3),
    "base_shift": optional(number(1e-3, 1e3)),
    "max_shift": optional(number(1e-3, 1e3)),
    "base_image_seq_len": optional(integer(1, 1 << 20)),
    "max_image_seq_len": optional(integer(1, 1 << 20)),
    "invert_sigmas": YES_NO,
    "stochastic_sampling": YES_NO,
}


def scheduler_config_clean(raw: dict[str, Any], file: str) -> Cleaned:
    """Raises ConfigError. A `_class_name` that is not read at all is the caller's to refuse."""
    return config_clean(raw, FLOW_CONFIG if raw.get("_class_name") == FLOW else DIFFUSION_CONFIG, file)
