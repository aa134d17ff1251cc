"""What a single-file checkpoint's family is beside its tensors: classes of its parts, schedulers, model_index.json.

Facts of the published models.
"""

from collections.abc import Collection
from typing import Any

from formats.image_families import FAMILIES, T5
from formats.scheduler_configs import FLOW
from formats.single_file import Checkpoint

Config = dict[str, Any]
ACTIVATIONS: dict[str, dict[str, str]] = {
    "sd1": {"text_encoder": "quick_gelu"},
    "sd2": {"text_encoder": "gelu"},
    "sdxl": {"text_encoder": "quick_gelu", "text_encoder_2": "gelu"},
    "sd3": {"text_encoder": "quick_gelu", "text_encoder_2": "gelu", "text_encoder_3": ""},
    "flux": {"text_encoder": "quick_gelu", "text_encoder_2": ""},
}
"""Of each text encoder; T5's own where it is empty."""
REPOSITORIES = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "flux": "black-forest-labs/FLUX.1-schnell",
}
"""Where the family's tokenizers, text encoders and VAE lie on huggingface.co, in diffusers' layout."""
NOISE_SCHEDULE: Config = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
SCHEDULERS: dict[str, Config] = {
    "sd1": {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, **NOISE_SCHEDULE},
    "sd2": {"_class_name": "DDIMScheduler", "clip_sample": False, "set_alpha_to_one": False, **NOISE_SCHEDULE},
    "sdxl": {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "linear", **NOISE_SCHEDULE},
    "sd3": {"_class_name": FLOW, "num_train_timesteps": 1000, "shift": 3.0},
    "flux": {
        "_class_name": FLOW,
        "num_train_timesteps": 1000,
        "shift": 3.0,
        "use_dynamic_shifting": True,
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
}
ZERO_TERMINAL_SNR: dict[str, Config] = {
    "sd1": {**SCHEDULERS["sd2"], "rescale_betas_zero_snr": True},
    "sd2": {**SCHEDULERS["sd2"], "rescale_betas_zero_snr": True},
    "sdxl": {**SCHEDULERS["sdxl"], "rescale_betas_zero_snr": True},
}
"""PNDM cannot rescale."""
SCHNELL = {"shift": 1.0, "use_dynamic_shifting": False}


def scheduler_of(checkpoint: Checkpoint, names: Collection[str], prediction_type: str = "") -> Config:
    """scheduler_config.json of a file with tensors of `names`; `prediction_type` overrules the file's own."""
    prediction = prediction_type or checkpoint.prediction_type or "epsilon"
    if not checkpoint.is_flow:
        is_rescaled = checkpoint.zero_terminal_snr and prediction == "v_prediction"
        facts = ZERO_TERMINAL_SNR if is_rescaled else SCHEDULERS
        return {**facts[checkpoint.family], "prediction_type": prediction}
    is_schnell = checkpoint.family == "flux" and not any("guidance_in." in name for name in names)
    return {**SCHEDULERS[checkpoint.family], **(SCHNELL if is_schnell else {})}


def index_of(family: str, scheduler: Config, *, has_t5: bool = True) -> Config:
    """model_index.json. `has_t5`: of SD3, which works without."""
    described = FAMILIES[family]
    index: Config = {
        "_class_name": described.pipeline,
        described.network: ["diffusers", described.parts[described.network][0]],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", scheduler["_class_name"]],
    }
    for part in ACTIVATIONS[family]:
        tokenizer = part.replace("text_encoder", "tokenizer")
        present = has_t5 or family != "sd3" or described.parts[part] != T5
        for name in (part, tokenizer):
            index[name] = ["transformers", described.parts[name][0]] if present else [None, None]
    if family in ("sd1", "sd2"):
        index |= {"safety_checker": [None, None], "feature_extractor": [None, None], "requires_safety_checker": False}
    return index | ({"force_zeros_for_empty_prompt": True} if family == "sdxl" else {})
