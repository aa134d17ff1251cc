"""Image models in diffusers format: which family a folder is of, and whether it has that family's parts."""

from collections.abc import Mapping
from typing import Any

from api.catalog.checking.configs import json_object, pipeline_configs_check
from api.catalog.checking.report import Refused
from api.catalog.checking.tensor_files import is_lora, lora_check, tensor_files_read
from api.catalog.checking.work import Work, ending
from formats.models.image_families import FAMILIES, PIPELINES, WITHOUT_WEIGHTS, family_of
from formats.models.safetensors_header import Tensors

SCHEDULER_CONFIG = "scheduler/scheduler_config.json"
Configs = Mapping[str, Mapping[str, Any]]
EMBEDDINGS = ("text_model.embeddings.token_embedding.weight", "embeddings.token_embedding.weight")
TEXT = "text_encoder/config.json hidden_size"
FLUX_PATCH = 4
"""Flux lays 2 x 2 latents into the channels."""


def pipeline_check(work: Work) -> dict[str, Any]:
    """{family, pipeline, components}. Raises Refused that names the file at fault."""
    index = json_object(work, "model_index.json")
    family = FAMILIES[_family(index)]
    parts = [part for part in family.parts if not (part in family.optional and _is_absent(index, part))]
    for part in parts:
        _part_check(part, family.parts[part], index, work.paths)
    _scheduler_check(work, family.parts["scheduler"])
    pipeline_configs_check(work)
    weighty = [part for part in parts if not part.startswith(WITHOUT_WEIGHTS)]
    configs = {part: _config(work, part) for part in weighty}
    name = _family(index, configs["text_encoder"].get("hidden_size"))
    shapes_check(name, configs, _weights_check(work, weighty))
    return {"family": name, "pipeline": index["_class_name"], "components": _components(work)}


def _family(index: Mapping[str, Any], text_width: Any = None) -> str:
    pipeline = index.get("_class_name")
    name = family_of(pipeline, text_width)
    if name is None:
        message = f"model_index.json: expected _class_name to be one of {', '.join(PIPELINES)}, got {pipeline!r:.100}"
        raise Refused(message, code="unknown_family")
    return name


def _is_absent(index: Mapping[str, Any], part: str) -> bool:
    return index.get(part) in (None, [None, None])


def _part_check(part: str, classes: tuple[str, ...], index: Mapping[str, Any], paths: list[str]) -> None:
    """A part that a trainer opens is named, of a known class, and there with safetensors where it has weights."""
    entry = index.get(part)
    name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
    if name not in classes:
        message = f"model_index.json: expected {part} to be {' or '.join(classes)}, got {entry!r:.100}"
        raise Refused(message, code="unknown_family")
    inside = [path for path in paths if path.startswith(f"{part}/")]
    if not inside:
        raise Refused(f"model_index.json names the part {part}, but there is no file below {part}/")
    if not part.startswith(WITHOUT_WEIGHTS) and not any(ending(path) == ".safetensors" for path in inside):
        raise Refused(f"there is no .safetensors file below {part}/")


def _scheduler_check(work: Work, classes: tuple[str, ...]) -> None:
    """The class that trainers read, which need not be that of model_index.json."""
    if SCHEDULER_CONFIG not in work.paths:
        return
    name = json_object(work, SCHEDULER_CONFIG, allow_infinity=True).get("_class_name")
    if name not in classes:
        message = f"{SCHEDULER_CONFIG}: expected _class_name to be {' or '.join(classes)}, got {name!r:.100}"
        raise Refused(message, code="unknown_family")


def _weights_check(work: Work, parts: list[str]) -> dict[str, Tensors]:
    """The tensors of each part."""
    base: dict[str, Tensors] = {part: {} for part in parts}
    loras: dict[str, Tensors] = {}
    for path, tensors in tensor_files_read(work).items():
        if is_lora(tensors):
            loras[path] = tensors
        elif (part := path.split("/")[0]) in base:
            base[part].update(tensors)
    for path, tensors in loras.items():
        lora_check(path, tensors, base, work.notices)
    return base


def _components(work: Work) -> dict[str, int]:
    """Bytes by part; what lies at the top counts for none."""
    sizes: dict[str, int] = {}
    for file in work.files:
        part, inside, _ = str(file["path"]).partition("/")
        if inside:
            sizes[part] = sizes.get(part, 0) + int(file["size"])
    return sizes


def _config(work: Work, part: str) -> dict[str, Any]:
    path = f"{part}/config.json"
    return json_object(work, path) if path in work.paths else {}


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
        embedding = next((held[name] for held in (tensors.get(part, {}),) for name in EMBEDDINGS if name in held), None)
        if embedding is not None and len(embedding.shape) == 2:
            width = _width(configs, part)
            _same(f"{part} token embedding width", embedding.shape[1], width, f"{part}/config.json hidden_size")


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


def _same(what: str, actual: Any, expected: Any, whose: str) -> None:
    if isinstance(actual, int) and isinstance(expected, int) and actual != expected:
        raise Refused(f"{what} is {actual}, but {whose} says {expected}; the parts are of different models")
