"""Checkpoints of image models in one file, in the layout of their authors and ComfyUI, recognised by names and shapes.

What is not in its tensors are facts of the published models: classes of its parts, schedulers, model_index.json.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from formats.models.adaptors import is_lora
from formats.models.image_families import FAMILIES, FLOW, FLOW_FAMILIES, SD2_TEXT_WIDTH, T5
from formats.models.safetensors_header import Header, header_read

UNET = "model.diffusion_model."
TRANSFORMER = ("model.diffusion_model.", "")
VAE = ("first_stage_model.", "vae.")
INPUT = "input_blocks.0.0.weight"
SDXL_MARK = "label_emb.0.0.weight"
SD3_MARK, FLUX_MARK = "joint_blocks.0.x_block.attn.qkv.weight", "double_blocks.0.img_attn.qkv.weight"
FLUX_INPUT, FLUX1_MARK = "img_in.weight", "vector_in.in_layer.weight"
REFINER_MARK = "conditioner.embedders.0.model."
EDM_MARKS = ("edm_mean", "edm_vpred.sigma_max")
LATENT_CHANNELS = 4
FLUX_CHANNELS = 64
DIFFUSERS_STARTS = ("down_blocks.", "transformer_blocks.", "single_transformer_blocks.", "time_text_embed.")
REFUSED_DTYPES = ("F8_E4M3", "F8_E5M2", "I8", "U8", "F64")
SUPPORTED = "SD 1.x, 2.x, XL, SD3 or Flux.1"
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "sd1": {"unet": (UNET,), "vae": VAE, "text_encoder": ("cond_stage_model.transformer.",)},
    "sd2": {"unet": (UNET,), "vae": VAE, "text_encoder": ("cond_stage_model.model.",)},
    "sdxl": {
        "unet": (UNET,),
        "vae": VAE,
        "text_encoder": ("conditioner.embedders.0.transformer.",),
        "text_encoder_2": ("conditioner.embedders.1.model.",),
    },
    "sd3": {
        "transformer": TRANSFORMER,
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.clip_g.transformer.",),
        "text_encoder_3": ("text_encoders.t5xxl.transformer.",),
    },
    "flux": {
        "transformer": TRANSFORMER,
        "vae": VAE,
        "text_encoder": ("text_encoders.clip_l.transformer.",),
        "text_encoder_2": ("text_encoders.t5xxl.transformer.",),
    },
}
"""Prefixes of tensor names by family and part."""
SPEC_PREDICTIONS = {"v": "v_prediction", "v_prediction": "v_prediction", "eps": "epsilon", "epsilon": "epsilon"}
"""Prediction type by `modelspec.prediction_type`."""
ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}
"""`modelspec.architecture` of SD 2.x, which implies the prediction type."""


class CheckpointError(ValueError):
    """The file cannot be imported as a checkpoint. `hint` says how to fix it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Shaped(Protocol):
    @property
    def shape(self) -> Sequence[int]: ...


class Checkpoint(NamedTuple):
    family: str
    parts: dict[str, str]
    """Prefix of the tensor names by part of the diffusers layout."""
    prediction_type: str = ""
    """epsilon or v_prediction if the file states it, else ""."""
    zero_terminal_snr: bool = False

    @property
    def title(self) -> str:
        return FAMILIES[self.family].title

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts that the file lacks; tokenizers are never in a single file."""
        tokenizers = (part for part in FAMILIES[self.family].parts if part.startswith("tokenizer"))
        return (*(part for part in LAYOUTS[self.family] if part not in self.parts), *tokenizers)

    @property
    def is_flow(self) -> bool:
        """Trained by flow matching, which has no prediction type."""
        return FAMILIES[self.family].is_flow

    @property
    def needs_prediction_type(self) -> bool:
        """SD 2.x has both kinds, with weights of the same names and shapes."""
        return self.family == "sd2" and not self.prediction_type


def checkpoint_of(tensors: Mapping[str, Shaped], metadata: Mapping[str, str] | None = None) -> Checkpoint | None:
    """Recognised by names and shapes; None if unknown.

    Raises CheckpointError for a relative of a known family that cannot be trained (inpainting, refiner, Chroma, ...).
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    family = _family(shapes)
    if family is None:
        return None
    parts: dict[str, str] = {}
    for part, prefixes in LAYOUTS[family].items():
        for prefix in prefixes:
            present = _has_network(shapes, prefix) if part == "transformer" else _begins(shapes, prefix)
            if present and part not in parts:
                parts[part] = prefix
    prediction = "" if family in FLOW_FAMILIES else _prediction_type(shapes, metadata or {})
    return Checkpoint(family, parts, prediction, prediction == "v_prediction" and "ztsnr" in shapes)


def checkpoint_file(path: Path, name: str = "") -> tuple[Checkpoint, Header]:
    """From a safetensors file's header. Raises HeaderError or CheckpointError; messages begin with the name."""
    name = name or path.name
    header = header_read(path, name)
    try:
        checkpoint = checkpoint_of(header.tensors, header.metadata)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}", error.hint) from None
    if checkpoint is None:
        raise other_kind(header.tensors, name)
    _dtypes_check(checkpoint, header, name)
    return checkpoint, header


def other_kind(names: Collection[str], file: str) -> CheckpointError:
    """Error for a file that is not a single-file checkpoint; tensor `names` tell what it is."""
    if is_lora(names):
        return CheckpointError(
            f"{file} is a LoRA; expected a whole checkpoint of {SUPPORTED} in one file",
            "A LoRA is added with `anneal adaptor import FILE --model BASE`.",
        )
    if any(name.startswith(DIFFUSERS_STARTS) for name in names):
        return CheckpointError(
            f"{file} is one part of a model in diffusers' layout; expected a whole checkpoint of {SUPPORTED}",
            "Add the folder with model_index.json that the part lies in.",
        )
    first = min(names, default="")
    shown = f"its first tensor is {first[:100]!r}" if first else "it holds no tensor"
    return CheckpointError(
        f"{file}: expected a checkpoint of {SUPPORTED} in one file, by its tensors' names; {shown}",
        "Other families cannot be trained here; docs/base-models.md lists those that can.",
    )


def _family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    for prefix in TRANSFORMER:
        if prefix + FLUX_MARK in shapes:
            _flux_check(shapes, prefix)
            return "flux"
        if prefix + SD3_MARK in shapes:
            return "sd3"
    if UNET + INPUT not in shapes:
        return None
    _unet_check(shapes)
    if UNET + SDXL_MARK in shapes:
        return "sdxl"
    width = next((shape[-1] for name, shape in shapes.items() if _is_cross_attention(name) and shape), None)
    return "sd2" if width == SD2_TEXT_WIDTH else "sd1"


def _flux_check(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> None:
    if prefix + FLUX1_MARK not in shapes:
        raise CheckpointError(
            f"expected Flux.1, got a relative of it without {FLUX1_MARK}, as Flux.2 and Chroma are",
            "Flux.1 dev and schnell can be trained.",
        )
    channels = shapes.get(prefix + FLUX_INPUT, ())[-1:]
    if channels != (FLUX_CHANNELS,):
        raise CheckpointError(
            f"expected a Flux.1 network that takes {FLUX_CHANNELS} channels, got {FLUX_INPUT} with "
            f"{channels[0] if channels else 'no shape'}, as Fill, Canny and Depth have",
            "Flux.1 dev and schnell can be trained.",
        )


def _unet_check(shapes: Mapping[str, tuple[int, ...]]) -> None:
    if _begins(shapes, REFINER_MARK):
        raise CheckpointError("expected an SDXL base, got the SDXL refiner", "Add the base checkpoint instead.")
    if marks := [mark for mark in EDM_MARKS if mark in shapes]:
        raise CheckpointError(
            f"expected a network trained to predict noise or velocity, got one with {marks[0]} (EDM, as Playground 2.5)"
        )
    channels = shapes[UNET + INPUT][1:2]
    if channels != (LATENT_CHANNELS,):
        raise CheckpointError(
            f"expected a network that takes {LATENT_CHANNELS} channels, got {UNET + INPUT} with "
            f"{channels[0] if channels else 'no such side'}, as inpainting, depth and editing models have",
            "Add the checkpoint that it was made of.",
        )


def _prediction_type(shapes: Collection[str], metadata: Mapping[str, str]) -> str:
    """By the marks of ComfyUI and the model specification's metadata."""
    if "v_pred" in shapes:
        return "v_prediction"
    stated = SPEC_PREDICTIONS.get(metadata.get("modelspec.prediction_type", "").lower(), "")
    return stated or ARCHITECTURES.get(metadata.get("modelspec.architecture", "").lower(), "")


def _dtypes_check(checkpoint: Checkpoint, header: Header, file: str) -> None:
    """Raises CheckpointError for 8-bit or 64-bit weights in a part that would be converted."""
    for name, tensor in header.tensors.items():
        if tensor.dtype in REFUSED_DTYPES and name.startswith(tuple(checkpoint.parts.values())):
            raise CheckpointError(
                f"{file}: {name[:100]} is {tensor.dtype}; expected weights in F32, F16 or BF16",
                "Weights that were rounded to 8 bits cannot be made exact again; add the checkpoint in 16 bits.",
            )


def _is_cross_attention(name: str) -> bool:
    return name.startswith(UNET) and name.endswith(".attn2.to_k.weight")


def _has_network(names: Collection[str], prefix: str) -> bool:
    return prefix + FLUX_MARK in names or prefix + SD3_MARK in names


def _begins(names: Collection[str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in names)


Config = dict[str, Any]
ACTIVATIONS: dict[str, dict[str, str]] = {
    "sd1": {"text_encoder": "quick_gelu"},
    "sd2": {"text_encoder": "gelu"},
    "sdxl": {"text_encoder": "quick_gelu", "text_encoder_2": "gelu"},
    "sd3": {"text_encoder": "quick_gelu", "text_encoder_2": "gelu", "text_encoder_3": ""},
    "flux": {"text_encoder": "quick_gelu", "text_encoder_2": ""},
}
"""Activation of each text encoder; "" means T5's default."""
REPOSITORIES = {
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3-medium-diffusers",
    "flux": "black-forest-labs/FLUX.1-schnell",
}
"""Hub repository of the family's tokenizers, text encoders and VAE, in diffusers' layout."""
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
"""Differ from SCHEDULERS because PNDM cannot rescale."""
SCHNELL = {"shift": 1.0, "use_dynamic_shifting": False}


def scheduler_of(checkpoint: Checkpoint, names: Collection[str], prediction_type: str = "") -> Config:
    """scheduler_config.json of a file with tensors of `names`; `prediction_type` overrides the file's."""
    prediction = prediction_type or checkpoint.prediction_type or "epsilon"
    if not checkpoint.is_flow:
        is_rescaled = checkpoint.zero_terminal_snr and prediction == "v_prediction"
        facts = ZERO_TERMINAL_SNR if is_rescaled else SCHEDULERS
        return {**facts[checkpoint.family], "prediction_type": prediction}
    is_schnell = checkpoint.family == "flux" and not any("guidance_in." in name for name in names)
    return {**SCHEDULERS[checkpoint.family], **(SCHNELL if is_schnell else {})}


def index_of(family: str, scheduler: Config, *, has_t5: bool = True) -> Config:
    """model_index.json. `has_t5`: false for SD3 without its optional T5."""
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
