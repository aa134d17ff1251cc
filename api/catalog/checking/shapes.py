"""Whether the parts of a model fit their configurations and each other, as far as headers tell."""

from collections.abc import Mapping
from typing import Any

from api.catalog.checking.report import Refused
from api.catalog.checking.weights import Tensors

Configs = Mapping[str, Mapping[str, Any]]
EMBEDDINGS = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")


def shapes_check(configs: Configs, tensors: Mapping[str, Tensors]) -> None:
    """Raises Refused with both numbers. What a configuration does not say is not checked."""
    unet, text = configs["unet"], configs["text_encoder"]
    _same("unet/config.json cross_attention_dim", unet.get("cross_attention_dim"), _text_width(text))
    vae_channels = configs["vae"].get("latent_channels")
    _same("unet/config.json in_channels", unet.get("in_channels"), vae_channels, "vae/config.json latent_channels")
    conv = tensors["unet"].get("conv_in.weight")
    if conv is not None and len(conv.shape) == 4:
        _same("unet conv_in.weight input channels", conv.shape[1], unet.get("in_channels"), "unet/config.json")
    found = next((tensors["text_encoder"][name] for name in EMBEDDINGS if name in tensors["text_encoder"]), None)
    if found is not None and len(found.shape) == 2:
        _same("text_encoder token embedding width", found.shape[1], _text_width(text))


def _text_width(config: Mapping[str, Any]) -> Any:
    return config.get("hidden_size")


def _same(what: str, given: Any, wanted: Any, whose: str = "text_encoder/config.json hidden_size") -> None:
    if isinstance(given, int) and isinstance(wanted, int) and given != wanted:
        raise Refused(f"{what} is {given}, but {whose} says {wanted}; the parts are of different models")
