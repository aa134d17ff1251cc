"""Configurations that `formats` derives for single files of the published models' widths, beside the published ones.

The networks are built without memory (meta tensors) and laid out as their authors do.
"""

import inspect
from functools import cache
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.loaders import single_file_utils
from torch import Tensor
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
)

from formats.models.image_configs import part_config_clean
from formats.models.image_families import scheduler_config_clean
from formats.models.single_file import checkpoint_of, index_of, scheduler_of
from formats.models.single_file_configs import configs_of
from tests.formats.models.test_real_configs import (
    CLIP_L,
    FLUX_TRANSFORMER,
    PNDM,
    SCHEDULERS,
    SD3_VAE,
    SD15_UNET,
    SD35_TRANSFORMER,
    SDXL_UNET,
    SDXL_VAE,
    T5_XXL,
)
from tests.trainers.image.models.original_layout import (
    clip_original,
    flux_original,
    open_clip_original,
    sd3_original,
    unet_original,
    vae_original,
)
from trainers.image.models.single_file import flux_convert, part_convert

UNET: Any = UNet2DConditionModel
VAE: Any = AutoencoderKL
SD3: Any = SD3Transformer2DModel
FLUX: Any = FluxTransformer2DModel
CONVERTERS: Any = single_file_utils
SD2_UNET = SD15_UNET | {
    "attention_head_dim": [5, 10, 20, 20],
    "cross_attention_dim": 1024,
    "sample_size": 96,
    "upcast_attention": True,
    "use_linear_projection": True,
}
SD1_VAE = {**SDXL_VAE, "sample_size": 512, "scaling_factor": 0.18215}
FLUX_VAE = {**SD3_VAE, "scaling_factor": 0.3611, "shift_factor": 0.1159}
SD3_TRANSFORMER = SD35_TRANSFORMER | {"dual_attention_layers": [], "qk_norm": None, "pos_embed_max_size": 192}
CLIP_H = CLIP_L | {
    "hidden_act": "gelu",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 23,
    "projection_dim": 1024,  # 512 as published; a CLIPTextModel does not read it
}
CLIP_G = CLIP_H | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_attention_heads": 20,
    "num_hidden_layers": 32,
    "projection_dim": 1280,
}
CLASSES = {
    "UNet2DConditionModel": UNET,
    "AutoencoderKL": VAE,
    "SD3Transformer2DModel": SD3,
    "FluxTransformer2DModel": FLUX,
}


def meta(build: Any) -> dict[str, Tensor]:
    with torch.device("meta"):
        return dict(build().state_dict())


def clip(config: dict[str, Any], cls: Any = CLIPTextModel, **changes: Any) -> dict[str, Tensor]:
    return meta(lambda: cls(CLIPTextConfig(**config | changes)))


def t5() -> dict[str, Tensor]:
    tensors = meta(lambda: T5EncoderModel(T5Config(**T5_XXL)))
    return {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in tensors.items()}


def vae(config: dict[str, Any], prefix: str = "first_stage_model.") -> dict[str, Tensor]:
    return vae_original(meta(lambda: VAE.from_config(config)), 4, prefix)


def unet(config: dict[str, Any]) -> dict[str, Tensor]:
    return unet_original(meta(lambda: UNET.from_config(config)), 2)


def sd1() -> dict[str, Tensor]:
    return unet(SD15_UNET) | vae(SD1_VAE) | clip_original(clip(CLIP_L), "cond_stage_model.transformer.")


def sd2() -> dict[str, Tensor]:
    text = open_clip_original(clip(CLIP_H, num_hidden_layers=24), "cond_stage_model.model.")
    return unet(SD2_UNET) | vae(SD1_VAE) | text


def sdxl() -> dict[str, Tensor]:
    first = clip_original(clip(CLIP_L), "conditioner.embedders.0.transformer.")
    second = open_clip_original(clip(CLIP_G, CLIPTextModelWithProjection), "conditioner.embedders.1.model.")
    return unet(SDXL_UNET) | vae(SDXL_VAE) | first | second


def sd3_of(config: dict[str, Any]) -> dict[str, Tensor]:
    first = clip_original(clip(CLIP_L, CLIPTextModelWithProjection), "text_encoders.clip_l.transformer.")
    second = clip_original(clip(CLIP_G, CLIPTextModelWithProjection), "text_encoders.clip_g.transformer.")
    return sd3_original(meta(lambda: SD3.from_config(config)), 24) | vae(SD3_VAE) | first | second | t5()


def flux() -> dict[str, Tensor]:
    text = clip_original(clip(CLIP_L), "text_encoders.clip_l.transformer.")
    network = flux_original(meta(lambda: FLUX.from_config(FLUX_TRANSFORMER)), "model.diffusion_model.")
    return network | vae(FLUX_VAE, "vae.") | text | t5()


PUBLISHED: dict[str, tuple[Any, dict[str, dict[str, Any]]]] = {
    "sd1": (sd1, {"unet": SD15_UNET, "vae": SD1_VAE, "text_encoder": CLIP_L}),
    "sd2": (sd2, {"unet": SD2_UNET, "vae": SD1_VAE | {"sample_size": 768}, "text_encoder": CLIP_H}),
    "sdxl": (sdxl, {"unet": SDXL_UNET, "vae": SDXL_VAE, "text_encoder": CLIP_L, "text_encoder_2": CLIP_G}),
    "sd3": (lambda: sd3_of(SD3_TRANSFORMER), {"transformer": SD3_TRANSFORMER, "vae": SD3_VAE, "text_encoder": CLIP_L}),
    "sd35": (lambda: sd3_of(SD35_TRANSFORMER), {"transformer": SD35_TRANSFORMER, "text_encoder_3": T5_XXL}),
    "flux": (flux, {"transformer": FLUX_TRANSFORMER, "vae": FLUX_VAE, "text_encoder_2": T5_XXL}),
}


@cache
def tensors_of(model: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = PUBLISHED[model][0]()
    return tensors


@pytest.mark.parametrize("model", PUBLISHED)
def test_configs_of_the_published_widths_are_the_published_ones(model: str) -> None:
    tensors, published = tensors_of(model), PUBLISHED[model][1]
    checkpoint = checkpoint_of(tensors)
    assert checkpoint is not None and model.startswith(checkpoint.family)
    configs = configs_of(checkpoint, tensors)
    index = index_of(checkpoint.family, {"_class_name": "X"})
    assert set(configs) == set(checkpoint.parts)
    for part, expected in published.items():
        class_name = index[part][1]
        cleaned = part_config_clean(configs[part], class_name, part)
        assert not cleaned.ignored, "a config that we write has only keys that we read"
        relevant = part_config_clean(expected, class_name, part).values
        assert shown(cleaned.values, class_name) == shown(relevant, class_name)


@pytest.mark.parametrize("model", PUBLISHED)
def test_every_tensor_of_the_published_widths_has_its_place(model: str) -> None:
    """Names and shapes after the conversion are those of the network that the config builds."""
    tensors = tensors_of(model)
    checkpoint = checkpoint_of(tensors)
    assert checkpoint is not None
    index = index_of(checkpoint.family, {"_class_name": "X"})
    for part, config in configs_of(checkpoint, tensors).items():
        inside = {name: tensor for name, tensor in tensors.items() if name.startswith(checkpoint.parts[part])}
        converted = part_convert(inside, checkpoint, part, config)
        assert shapes(converted) == shapes(network(index[part][1], config)), part


def shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """transformers has taken `text_model.` out of some classes; T5's two names of its words are one matrix."""
    return {
        name.removeprefix("text_model."): tuple(tensor.shape)
        for name, tensor in tensors.items()
        if name != "encoder.embed_tokens.weight"
    }


def network(class_name: str, config: dict[str, Any]) -> dict[str, Tensor]:
    match class_name:
        case "T5EncoderModel":
            return meta(lambda: T5EncoderModel(T5Config(**config)))
        case "CLIPTextModel":
            return clip(config)
        case "CLIPTextModelWithProjection":
            return clip(config, CLIPTextModelWithProjection)
    return meta(lambda: CLASSES[class_name].from_config(config))


def shown(values: dict[str, Any], class_name: str) -> dict[str, Any]:
    """With the defaults of the class for what is left out."""
    if class_name not in CLASSES:
        return dict((T5Config if class_name == "T5EncoderModel" else CLIPTextConfig)(**values).to_dict())
    parameters = inspect.signature(CLASSES[class_name].__init__).parameters.values()
    config = {parameter.name: parameter.default for parameter in parameters if parameter.name != "self"} | values
    config |= {} if config.get("upcast_attention", True) else {"upcast_attention": None}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


def test_schedulers_are_the_published_ones() -> None:
    sd1_like, sdxl_like, flux_like = sd1_names(), sdxl_names(), flux_names()
    assert scheduler(sd1_like)["_class_name"] == "PNDMScheduler"
    for names, published in ((sd1_like, PNDM), (sdxl_like, SCHEDULERS["SDXL"]), (flux_like, SCHEDULERS["Flux"])):
        derived = scheduler(names)
        assert not scheduler_config_clean(derived, "x").ignored
        assert {key: published.get(key, derived[key]) for key in derived} == derived
    assert scheduler({name: shape for name, shape in flux_like.items() if "guidance" not in name})["shift"] == 1.0


def scheduler(tensors: dict[str, Tensor]) -> dict[str, Any]:
    checkpoint = checkpoint_of(tensors)
    assert checkpoint is not None
    return scheduler_of(checkpoint, tensors)


def sd1_names() -> dict[str, Tensor]:
    return {"model.diffusion_model.input_blocks.0.0.weight": torch.empty(320, 4, 3, 3, device="meta")}


def sdxl_names() -> dict[str, Tensor]:
    return {**sd1_names(), "model.diffusion_model.label_emb.0.0.weight": torch.empty(1, 2816, device="meta")}


def flux_names() -> dict[str, Tensor]:
    names = ("double_blocks.0.img_attn.qkv.weight", "vector_in.in_layer.weight", "guidance_in.in_layer.weight")
    return {"img_in.weight": torch.empty(3072, 64), **{name: torch.empty(1, 1) for name in names}}


def test_flux_at_its_published_width_is_converted_as_diffusers_does() -> None:
    """Full height, so that `linear1` is split at 3072; one column, so that it is small."""
    config = FLUX_TRANSFORMER | {"num_layers": 2, "num_single_layers": 2}
    shapes = flux_original(meta(lambda: FLUX.from_config(config)))
    tensors = {name: torch.randn(t.shape[0], *(1 for _ in t.shape[1:])) for name, t in shapes.items()}
    ours, reference = (
        flux_convert(dict(tensors)),
        CONVERTERS.convert_flux_transformer_checkpoint_to_diffusers(dict(tensors)),
    )
    assert set(ours) == set(reference)
    assert all(torch.equal(ours[name], tensor) for name, tensor in reference.items())
