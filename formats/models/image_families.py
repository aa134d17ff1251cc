"""The families of image models: their pipeline in diffusers, parts of their folders, and keys of their schedulers."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from formats.models.configs import (
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
PREDICTIONS = ("epsilon", "v_prediction")
"""Prediction types that can be trained, of families that are not trained by flow matching."""
Parts = Mapping[str, tuple[str, ...]]
"""Classes that each part may have; the first is what we write."""
VAE = ("AutoencoderKL",)
CLIP, CLIP_PROJECTED, T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)
CLIP_TOKENS, T5_TOKENS = ("CLIPTokenizer", "CLIPTokenizerFast"), ("T5Tokenizer", "T5TokenizerFast")
UNET = ("UNet2DConditionModel",)
SD_PARTS: Parts = {"unet": UNET, "vae": VAE, "text_encoder": CLIP, "tokenizer": CLIP_TOKENS, "scheduler": DIFFUSION}
SD2_TEXT_WIDTH = 1024
"""Width of OpenCLIP-H, which tells 2.x from 1.x (768): both have the same pipeline class."""
WITHOUT_WEIGHTS = ("tokenizer", "scheduler")
"""Name prefixes of parts without weights."""


class ImageFamily(NamedTuple):
    title: str
    pipeline: str
    """`_class_name` in model_index.json."""
    parts: Parts
    optional: tuple[str, ...] = ()
    """Parts that may be null in model_index.json."""
    is_flow: bool = False
    """Trained by flow matching, which has no prediction type."""

    @property
    def needed(self) -> tuple[str, ...]:
        return tuple(part for part in self.parts if part not in self.optional)

    @property
    def network(self) -> str:
        return "unet" if "unet" in self.parts else "transformer"


FAMILIES = {
    "sd1": ImageFamily("Stable Diffusion 1.x", "StableDiffusionPipeline", SD_PARTS),
    "sd2": ImageFamily("Stable Diffusion 2.x", "StableDiffusionPipeline", SD_PARTS),
    "sdxl": ImageFamily(
        "Stable Diffusion XL",
        "StableDiffusionXLPipeline",
        {
            "unet": UNET,
            "vae": VAE,
            "text_encoder": CLIP,
            "text_encoder_2": CLIP_PROJECTED,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": CLIP_TOKENS,
            "scheduler": DIFFUSION,
        },
    ),
    "sd3": ImageFamily(
        "Stable Diffusion 3",
        "StableDiffusion3Pipeline",
        {
            "transformer": ("SD3Transformer2DModel",),
            "vae": VAE,
            "text_encoder": CLIP_PROJECTED,
            "text_encoder_2": CLIP_PROJECTED,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": CLIP_TOKENS,
            "scheduler": (FLOW,),
            "text_encoder_3": T5,
            "tokenizer_3": T5_TOKENS,
        },
        optional=("text_encoder_3", "tokenizer_3"),
        is_flow=True,
    ),
    "flux": ImageFamily(
        "Flux.1",
        "FluxPipeline",
        {
            "transformer": ("FluxTransformer2DModel",),
            "vae": VAE,
            "text_encoder": CLIP,
            "text_encoder_2": T5,
            "tokenizer": CLIP_TOKENS,
            "tokenizer_2": T5_TOKENS,
            "scheduler": (FLOW,),
        },
        is_flow=True,
    ),
}
PIPELINES = tuple(dict.fromkeys(family.pipeline for family in FAMILIES.values()))
FLOW_FAMILIES = tuple(name for name, family in FAMILIES.items() if family.is_flow)


def family_of(pipeline: Any, text_width: Any = None) -> str | None:
    """From `_class_name` of model_index.json and, for Stable Diffusion, `hidden_size` of the text encoder; None if
    unknown."""
    names = [name for name, family in FAMILIES.items() if family.pipeline == pipeline]
    if "sd2" in names and text_width == SD2_TEXT_WIDTH:
        return "sd2"
    return names[0] if names else None


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
    """Raises ConfigError. The caller refuses unsupported values of `_class_name`."""
    return config_clean(raw, FLOW_CONFIG if raw.get("_class_name") == FLOW else DIFFUSION_CONFIG, file)
