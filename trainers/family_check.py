"""Parameters of `image_lora` against the family of the base model: a value that would do nothing is refused."""

from typing import Any

from trainers.errors import ReasonCode, TrainerError
from trainers.models.base import Base
from trainers.models.families import family_module
from trainers.params.image_lora import ImageLoraParams

DDPM_ONLY = ("prediction_type", "snr_gamma", "noise_offset")
FLOW_ONLY = ("timestep_sampling", "timestep_shift", "max_sequence_length")


def family_check(base: Base, params: ImageLoraParams) -> None:
    """Raises TrainerError(BAD_PARAMETERS) that names the parameter, its value and the family."""
    family = family_module(base.family)
    for name in DDPM_ONLY if family.IS_FLOW else FLOW_ONLY:
        _is_default(params, name, family.TITLE)
    if base.family == "flux":
        _is_default(params, "clip_skip", family.TITLE)
    if base.family != "flux":
        _is_default(params, "flux_guidance", family.TITLE)
    elif not base.network.config.guidance_embeds:
        _is_default(params, "flux_guidance", "this Flux model, which has no guidance embedding")
    if params.resolution % family.PIXEL_MULTIPLE:
        nearest = round(params.resolution / family.PIXEL_MULTIPLE) * family.PIXEL_MULTIPLE
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"resolution={params.resolution} must be a multiple of {family.PIXEL_MULTIPLE} for {family.TITLE}; "
            f"choose {nearest}",
        )


def _is_default(params: ImageLoraParams, name: str, title: str) -> None:
    value: Any = getattr(params, name)
    default: Any = type(params).model_fields[name].default
    if value != default:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS, f"{name}={value!r} does nothing with {title}; leave {name} at its default"
        )
