"""Whether the parts of a model fit their configurations and each other, as far as headers tell."""

from collections.abc import Mapping
from typing import Any

from api.catalog.checking.report import Refused
from formats.safetensors_header import Tensors

Configs = Mapping[str, Mapping[str, Any]]
EMBEDDINGS = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
TEXT = "text_encoder/config.json hidden_size"
FLUX_PATCH = 4
"""Flux lays 2 x 2 latents into the channels."""


def shapes_check(family: str, configs: Configs, tensors: Mapping[str, Tensors]) -> None:
    """Raises Refused with both numbers. What a configuration does not say is not checked."""
    match family:
        case "sdxl":
            _unet_check(configs, tensors["unet"], _sum(configs, "hidden_size"), f"{TEXT} and that of text_encoder_2")
        case "sd3":
            _transformer_check(configs, "text_encoder_3", _sum(configs, "projection_dim"), patch=1)
        case "flux":
            _transformer_check(configs, "text_encoder_2", _width(configs, "text_encoder"), patch=FLUX_PATCH)
        case _:
            _unet_check(configs, tensors["unet"], _width(configs, "text_encoder"), TEXT)
    for part in ("text_encoder", "text_encoder_2"):
        found = next((own[name] for own in (tensors.get(part, {}),) for name in EMBEDDINGS if name in own), None)
        if found is not None and len(found.shape) == 2:
            width = _width(configs, part)
            _same(f"{part} token embedding width", found.shape[1], width, f"{part}/config.json hidden_size")


def _unet_check(configs: Configs, tensors: Tensors, text_width: Any, whose: str) -> None:
    unet = configs["unet"]
    _same("unet/config.json cross_attention_dim", unet.get("cross_attention_dim"), text_width, whose)
    vae_channels = configs["vae"].get("latent_channels")
    _same("unet/config.json in_channels", unet.get("in_channels"), vae_channels, "vae/config.json latent_channels")
    conv = tensors.get("conv_in.weight")
    if conv is not None and len(conv.shape) == 4:
        _same("unet conv_in.weight input channels", conv.shape[1], unet.get("in_channels"), "unet/config.json")


def _transformer_check(configs: Configs, t5: str, pooled_width: Any, *, patch: int) -> None:
    config, where = configs["transformer"], "transformer/config.json"
    t5_width = configs.get(t5, {}).get("d_model")
    _same(f"{where} joint_attention_dim", config.get("joint_attention_dim"), t5_width, f"{t5}/config.json d_model")
    pooled = "the width of the CLIP encoders' pooled text"
    _same(f"{where} pooled_projection_dim", config.get("pooled_projection_dim"), pooled_width, pooled)
    latents = configs["vae"].get("latent_channels")
    channels = latents * patch if isinstance(latents, int) else None
    whose = f"vae/config.json latent_channels x {patch}" if patch > 1 else "vae/config.json latent_channels"
    _same(f"{where} in_channels", config.get("in_channels"), channels, whose)


def _sum(configs: Configs, key: str) -> int | None:
    """Of both CLIP encoders; None where one does not say it."""
    first, second = (configs[part].get(key) for part in ("text_encoder", "text_encoder_2"))
    return first + second if isinstance(first, int) and isinstance(second, int) else None


def _width(configs: Configs, part: str) -> Any:
    return configs.get(part, {}).get("hidden_size")


def _same(what: str, given: Any, wanted: Any, whose: str) -> None:
    if isinstance(given, int) and isinstance(wanted, int) and given != wanted:
        raise Refused(f"{what} is {given}, but {whose} says {wanted}; the parts are of different models")
