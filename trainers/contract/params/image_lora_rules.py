"""Rules between the fields of `image_lora`: what is refused, and what is allowed but probably not intended."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from formats.models.image_families import FAMILIES, FLOW_FAMILIES
from trainers.contract.params.base import as_typed

if TYPE_CHECKING:
    from trainers.contract.params.image_lora import ImageLoraParams

EVALUATION_SHARE = 0.2
"""Of all forwards of the network; a larger share causes a warning."""
FORM_WARMUP_STEPS = 50
"""`lr_warmup_steps` in Transformer Lab's form, whatever the schedule."""


FLOW_MULTIPLE = 16
"""Sides of images of flow families; the others' are multiples of 8."""
UNET_ONLY = ("prediction_type", "snr_gamma", "noise_offset", "conv_rank")
FLOW_ONLY = ("timestep_sampling", "timestep_shift", "max_sequence_length")
FLUX_ONLY, NOT_FLUX = ("flux_guidance",), ("clip_skip", "eval_negative_prompt")


OF_SAMPLES = ("eval_negative_prompt", "eval_num_inference_steps", "eval_guidance_scale", "eval_seed")
"""Fields that only affect sample images."""


class Switch(NamedTuple):
    """A field without effect unless another has one of these values."""

    field: str
    values: tuple[Any, ...]


SWITCHES: dict[str, Switch] = {
    "color_jitter_brightness": Switch("color_jitter", (True,)),
    "color_jitter_contrast": Switch("color_jitter", (True,)),
    "color_jitter_saturation": Switch("color_jitter", (True,)),
    "color_jitter_hue": Switch("color_jitter", (True,)),
    "rotation_degrees": Switch("random_rotation", (True,)),
    "rotation_prob": Switch("random_rotation", (True,)),
    "keep_tokens": Switch("caption_shuffle", (True,)),
    "mask_column": Switch("masked_loss", ("mask_column",)),
    "unmasked_weight": Switch("masked_loss", ("alpha", "mask_column")),
    "text_encoder_learning_rate": Switch("train_text_encoder", (True,)),
    "huber_c": Switch("loss_type", ("huber",)),
    "class_prompt": Switch("prior_preservation", (True,)),
    "num_class_images": Switch("prior_preservation", (True,)),
    "prior_weight": Switch("prior_preservation", (True,)),
    "ema_decay": Switch("use_ema", (True,)),
    "wandb_project": Switch("log_to_wandb", (True,)),
    "secrets": Switch("log_to_wandb", (True,)),
    "adam_beta1": Switch("optimizer", ("adamw", "adamw8bit", "prodigy", "lion")),
    "adam_beta2": Switch("optimizer", ("adamw", "adamw8bit", "prodigy", "lion")),
    "adam_epsilon": Switch("optimizer", ("adamw", "adamw8bit", "prodigy")),
}


def fields_agree(params: "ImageLoraParams") -> None:
    """Raises ValueError that names both fields, both values and a fix."""
    _duration_agrees(params)
    _warm_up_agrees(params)
    for name, switch in SWITCHES.items():
        _is_not_idle(params, name, switch)
    _evaluation_agrees(params)
    if params.optimizer == "prodigy" and params.text_encoder_rate != params.rate:
        raise ValueError(
            f"text_encoder_learning_rate={params.text_encoder_rate:g} and learning_rate={params.rate:g} differ, but "
            "optimizer='prodigy' finds one rate for all; leave text_encoder_learning_rate empty"
        )
    if params.prior_preservation and not params.class_prompt.strip():
        raise ValueError(
            "prior_preservation=true needs class_prompt, the caption of the class images; "
            "set class_prompt, for instance to 'a photo of a dog'"
        )


def family_problem(params: "ImageLoraParams", family: str) -> str:
    """The parameter that has no effect or is not possible with a base model of that family; "" if none."""
    title, is_flow = FAMILIES[family].title if family in FAMILIES else family, family in FLOW_FAMILIES
    strange = (*(UNET_ONLY if is_flow else FLOW_ONLY), *(NOT_FLUX if family == "flux" else FLUX_ONLY))
    if idle := params.changed(*strange):
        return f"{idle} does nothing with {title}; leave it at its default"
    if is_flow and params.resolution % FLOW_MULTIPLE:
        nearest = round(params.resolution / FLOW_MULTIPLE) * FLOW_MULTIPLE
        message = f"resolution={params.resolution} must be a multiple of {FLOW_MULTIPLE} for {title}"
        return f"{message}; choose {nearest}"
    return ""


def probably_not_meant(params: "ImageLoraParams") -> list[str]:
    messages = []
    if params.eval_prompts and params.eval_num_inference_steps < 10:
        messages.append(
            f"eval_num_inference_steps={params.eval_num_inference_steps} is below 10: samples will be rough"
        )
    if params.max_train_steps and params.warmup_steps >= params.max_train_steps:
        messages.append(
            f"the warm-up of {params.warmup_steps} steps fills all {params.max_train_steps} steps, so learning_rate is "
            "hardly reached; lower lr_warmup_steps"
        )
    if params.optimizer == "prodigy" and params.rate < 0.1:
        messages.append(
            f"learning_rate={params.rate:g} scales down the rate that prodigy finds by itself; leave it empty (1.0)"
        )
    if params.optimizer == "lion" and params.adam_beta2 > 0.99:
        messages.append(f"adam_beta2={params.adam_beta2:g} is slow for lion; 0.99 is usual")
    if params.eval_prompts:
        messages += _evaluation_warnings(params)
    return messages


def _duration_agrees(params: "ImageLoraParams") -> None:
    if params.max_train_steps and (idle := params.changed("num_train_epochs")):
        raise ValueError(f"{idle} does nothing with max_train_steps={params.max_train_steps}; leave one of them out")


def _warm_up_agrees(params: "ImageLoraParams") -> None:
    if params.lr_scheduler == "constant" and params.lr_warmup_steps:
        raise ValueError(
            f"lr_warmup_steps={params.lr_warmup_steps} does nothing with lr_scheduler='constant'; "
            "choose lr_scheduler='constant_with_warmup', or leave lr_warmup_steps empty"
        )
    if params.max_train_steps and params.lr_warmup_steps and params.lr_warmup_steps > params.max_train_steps:
        raise ValueError(
            f"lr_warmup_steps={params.lr_warmup_steps} is more than max_train_steps={params.max_train_steps}; "
            "lower lr_warmup_steps"
        )


def without_form_warmup(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Removes the warm-up that Transformer Lab's form sets by default with a schedule that has none."""
    constant = values.get("lr_scheduler", "constant") == "constant"
    if not constant or values.get("lr_warmup_steps") != FORM_WARMUP_STEPS:
        return dict(values), []
    note = (
        f"lr_warmup_steps={FORM_WARMUP_STEPS} was left out: it does nothing with lr_scheduler='constant'; "
        "for a warm-up choose lr_scheduler='constant_with_warmup'"
    )
    return {name: value for name, value in values.items() if name != "lr_warmup_steps"}, [note]


def _evaluation_agrees(params: "ImageLoraParams") -> None:
    if not params.eval_prompts and (idle := params.changed(*OF_SAMPLES)):
        raise ValueError(f"{idle} does nothing without eval_prompt; write a prompt, or leave it out")
    if not params.shows() and (idle := params.changed("eval_every_steps", "eval_every_epochs")):
        raise ValueError(f"{idle} does nothing without eval_prompt and validation_split; set one, or leave it out")
    if params.eval_every_steps and (idle := params.changed("eval_every_epochs")):
        raise ValueError(f"{idle} does nothing with eval_every_steps={params.eval_every_steps}; leave one of them out")
    if params.eval_guidance_scale == 1 and (idle := params.changed("eval_negative_prompt")):
        raise ValueError(f"{idle} does nothing with eval_guidance_scale=1.0, which turns guidance off")


def _is_not_idle(params: "ImageLoraParams", name: str, switch: Switch) -> None:
    """Raises ValueError if a value other than the default has no effect."""
    setting, idle = getattr(params, switch.field), params.changed(name)
    if idle and setting not in switch.values:
        required = " or ".join(as_typed(one) for one in switch.values)
        raise ValueError(
            f"{idle} does nothing with {switch.field}={as_typed(setting)}; "
            f"choose {switch.field}={required}, or leave {name} at its default"
        )


def _evaluation_warnings(params: "ImageLoraParams") -> list[str]:
    """Only for eval_every_steps: with epochs it depends on the size of the dataset, so the job itself warns."""
    if params.eval_every_steps is None:
        return []
    forwards = params.evaluation_forwards()
    trained = params.eval_every_steps * params.train_batch_size * params.gradient_accumulation_steps
    share = forwards / (forwards + trained)
    if share <= EVALUATION_SHARE:
        return []
    return [
        f"evaluating every {params.eval_every_steps} steps takes {share:.0%} of the network's forwards; "
        "raise eval_every_steps or lower eval_num_inference_steps"
    ]
