"""Adaptor files: opens one that may be hostile, and writes the two that other tools read, diffusers' and kohya's.

In a file that is opened nothing is executed, ignored or silently renamed.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from formats.models.adaptors import (
    ARCHITECTURES,
    CLIP_SKIP_FAMILIES,
    FAMILY_ENTRIES,
    FAMILY_PREFIXES,
    KOHYA_ALPHA,
    KOHYA_STARTS,
    VERSIONS,
    other_kind,
)
from formats.models.configs import PICKLE_ENDINGS
from formats.models.image_families import FAMILIES
from foundation.atomic import bytes_write
from trainers.core.lora import TRAINED
from trainers.core.model_files import file_bytes
from trainers.image.adaptors.kohya import kohya_pairs, kohya_tensors
from trainers.image.adaptors.pairs import Pairs, bad, live_pairs, pairs_check
from trainers.image.adaptors.peft_keys import HEADER, peft_header, peft_pairs, peft_tensors
from trainers.image.models.base import Base

WEIGHTS = "pytorch_lora_weights.safetensors"
"""With the names of diffusers and peft."""
KOHYA = "kohya.safetensors"
"""With the names of kohya's sd-scripts, which ComfyUI and other tools read."""
Format = Literal["diffusers", "kohya"]
HOW_TO_USE = ("prediction_type", "clip_skip")
"""Entries of the header that sampling with the adaptor needs; a file without metadata has them too."""
NETWORK_MODULES = {"sd3": "networks.lora_sd3", "flux": "networks.lora_flux"}
FROM_PARAMS = {
    "ss_learning_rate": "learning_rate",
    "ss_unet_lr": "learning_rate",
    "ss_text_encoder_lr": "text_encoder_learning_rate",
    "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "lr_scheduler",
    "ss_lr_warmup_steps": "lr_warmup_steps",
    "ss_num_epochs": "num_train_epochs",
    "ss_max_train_steps": "max_train_steps",
    "ss_batch_size_per_device": "train_batch_size",
    "ss_gradient_accumulation_steps": "gradient_accumulation_steps",
    "ss_gradient_checkpointing": "gradient_checkpointing",
    "ss_max_grad_norm": "max_grad_norm",
    "ss_mixed_precision": "mixed_precision",
    "ss_seed": "seed",
    "ss_noise_offset": "noise_offset",
    "ss_min_snr_gamma": "snr_gamma",
    "ss_caption_dropout_rate": "caption_dropout_rate",
    "ss_prior_loss_weight": "prior_weight",
    "ss_network_dropout": "lora_dropout",
    "ss_loss_type": "loss_type",
    "ss_huber_c": "huber_c",
    "ss_huber_schedule": "huber_schedule",
}
"""sd-scripts' entries and the parameters of image_lora with the same meaning."""


@dataclass(frozen=True)
class AdaptorFile:
    """The content of a file; tensors still have the file's names."""

    name: str
    format: Format
    tensors: dict[str, Tensor]
    """fp32 on the CPU."""
    metadata: dict[str, str]
    """The entries of the header, unchecked."""


@dataclass(frozen=True)
class Adaptor:
    pairs: Pairs
    metadata: dict[str, str]
    """The entries of the file's header, unchecked."""
    file: AdaptorFile


def adaptor_read(base: Base, folder: Path) -> Adaptor:
    """The adaptor of `folder`, in diffusers' or kohya's format, checked against every layer of `base`."""
    file = adaptor_open(folder)
    family_check(file, base)
    pairs = kohya_pairs(base, file.tensors) if file.format == "kohya" else peft_pairs(file.tensors, file.metadata)
    pairs_check(base, pairs)
    for part, by_layer in pairs.items():
        with_magnitude = [layer for layer, pair in by_layer.items() if pair.magnitude_O is not None]
        if with_magnitude and len(with_magnitude) < len(by_layer):
            without = next(layer for layer in by_layer if layer not in with_magnitude)
            raise bad(f"{part}.{without} has no DoRA magnitude, but {part}.{with_magnitude[0]} has one")
    return Adaptor(pairs, file.metadata, file)


def adaptor_open(folder: Path) -> AdaptorFile:
    """Reads the adaptor in `folder`. Raises TrainerError(BAD_ADAPTOR) that names the invalid key."""
    path = weights_path(folder)
    tensors, metadata = _read(path)
    _formats_check(tensors)
    for key, value in tensors.items():
        if not (value.is_floating_point() or key.endswith(KOHYA_ALPHA)) or 0 in value.shape:
            raise bad(f"{key} has shape {tuple(value.shape)} of {value.dtype}; expected a matrix of floats")
        if not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise bad(f"{key} has {count} values that are NaN or infinite")
    floats = {key: value.float() for key, value in tensors.items()}
    return AdaptorFile(path.name, _format(floats), floats, metadata)


def weights_path(folder: Path) -> Path:
    """The diffusers file if there is one, else kohya's, else the only safetensors file of `folder`."""
    for name in (WEIGHTS, KOHYA):
        if (folder / name).is_file():
            return folder / name
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    files = [name for name in names if name.endswith(".safetensors")]
    if len(files) == 1:
        return folder / files[0]
    present = f"found {', '.join((files or names)[:5])}" if names else "found nothing"
    pickled = any(name.endswith(PICKLE_ENDINGS) for name in names)
    expected = f"expected {WEIGHTS} or one other .safetensors file"
    raise bad(f"{expected}, {present}" + ("; pickle files are never loaded" if pickled and not files else ""))


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}, file.metadata() or {}
    except SafetensorError as error:
        raise bad(f"{path.name} is not a safetensors file: {error}") from error


def _formats_check(tensors: dict[str, Tensor]) -> None:
    if not tensors:
        raise bad("the file holds no tensor")
    if other := other_kind(tensors):
        key, kind = other
        raise bad(f"{key} is of the {kind} format; expected LoRA or DoRA pairs, of diffusers or of kohya")


def _format(tensors: dict[str, Tensor]) -> Format:
    return "kohya" if any(key.startswith(KOHYA_STARTS) for key in tensors) else "diffusers"


def family_check(file: AdaptorFile, base: Base) -> None:
    """Raises TrainerError(BAD_ADAPTOR) if the header or the prefix of the network names another family."""
    for entry in FAMILY_ENTRIES:
        value = file.metadata.get(entry, "")
        family = next((family for prefix, family in FAMILY_PREFIXES if value.lower().startswith(prefix)), base.family)
        if family != base.family:
            raise bad(
                f"{file.name} says {entry} = {value}, so it is for {_title(family)}; "
                f"the base model is {_title(base.family)}"
            )
    other = {"unet": "transformer", "transformer": "unet"}[base.network_part]
    if key := next((key for key in file.tensors if key.startswith(f"{other}.")), None):
        raise bad(
            f"{key} is of a {other}; the base model is {_title(base.family)}, whose network is a {base.network_part}"
        )


def _title(family: str) -> str:
    return FAMILIES[family].title if family in FAMILIES else family


def adaptor_save(
    base: Base,
    folder: Path,
    *,
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes the pairs in training on `base`; see `adaptor_write`."""
    return adaptor_write(base, folder, live_pairs(base, TRAINED), metadata=metadata, config=config)


def adaptor_write(
    base: Base,
    folder: Path,
    pairs: Pairs,
    *,
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `pairs` as a diffusers and a kohya file below `folder`; returns the path of the diffusers file.

    `metadata` joins the header of the diffusers file: base_sha256, base_name, name, trigger_word, prediction_type,
    clip_skip, step. `config` is the job's parameters; its `no_metadata` leaves kohya's entries about the training out.
    Equal weights, metadata and config give equal bytes.
    """
    assert pairs, "an adaptor without pairs"
    params = config or {}
    header = {**metadata, "format": "pt", HEADER: peft_header(pairs)}
    bytes_write(folder / WEIGHTS, file_bytes(peft_tensors(pairs), header))
    tensors = kohya_tensors(base, pairs)
    training: dict[str, str] = {}
    if not params.get("no_metadata"):
        distilled = base.family == "flux" and not base.network.config.guidance_embeds
        training = kohya_header(tensors, pairs, base.family, metadata, params, is_distilled=distilled)
    # lora_adapter_metadata would make diffusers look for peft's names
    functional = {key: metadata[key] for key in ("base_sha256", *HOW_TO_USE) if key in metadata}
    bytes_write(folder / KOHYA, file_bytes(tensors, {**functional, **training, "format": "pt"}))
    return folder / WEIGHTS


def how_to_use(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The HOW_TO_USE entries of a header, for a manifest: numbers as numbers."""
    entries: dict[str, Any] = {key: metadata[key] for key in HOW_TO_USE if key in metadata}
    return entries | ({"clip_skip": int(entries["clip_skip"])} if "clip_skip" in entries else {})


def kohya_header(
    tensors: Mapping[str, Tensor],
    pairs: Pairs,
    family: str,
    metadata: Mapping[str, str],
    params: Mapping[str, Any],
    *,
    is_distilled: bool = False,
) -> dict[str, str]:
    """The header as sd-scripts (`ss_*`) and the model specification (`modelspec.*`) name its entries.

    Contains no times or paths of this host, so that equal jobs write equal bytes. `metadata` is that of the diffusers
    file: name, trigger word, base, prediction type. `params` are the training's, with defaults filled in for none.
    `is_distilled`: Flux schnell.
    """
    training = _network(pairs, family) | _base(family, metadata) | _training(params) | _clip_skip(family, metadata)
    training |= _tags(metadata)
    hashes = _hashes(tensors, training)
    architecture = _architecture(family, metadata, is_distilled=is_distilled)
    return training | hashes | _modelspec(architecture, metadata, params, hashes["sshs_model_hash"])


def _architecture(family: str, metadata: Mapping[str, str], *, is_distilled: bool) -> str:
    if family == "sd2" and metadata.get("prediction_type") == "v_prediction":
        return "stable-diffusion-v2-768-v"
    return "flux-1-schnell" if family == "flux" and is_distilled else ARCHITECTURES[family]


def _network(pairs: Pairs, family: str) -> dict[str, str]:
    all_pairs = [pair for by_layer in pairs.values() for pair in by_layer.values()]
    linear = [pair for pair in all_pairs if pair.down.ndim == 2] or all_pairs
    spatial = [pair for pair in all_pairs if pair.down.ndim == 4 and pair.down.shape[-1] > 1]
    rank, alpha = Counter((pair.rank, pair.alpha) for pair in linear).most_common(1)[0][0]
    arguments: dict[str, Any] = {}
    if spatial:
        arguments = {"conv_dim": str(spatial[0].rank), "conv_alpha": _text(spatial[0].alpha)}
    if any(pair.magnitude_O is not None for pair in all_pairs):
        arguments["dora_wd"] = "True"
    return {
        "ss_network_module": NETWORK_MODULES.get(family, "networks.lora"),
        "ss_network_dim": str(rank),
        "ss_network_alpha": _text(alpha),
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def _base(family: str, metadata: Mapping[str, str]) -> dict[str, str]:
    return {
        "ss_base_model_version": VERSIONS[family],
        "ss_v2": str(family == "sd2"),
        "ss_v_parameterization": str(metadata.get("prediction_type") == "v_prediction"),
        "ss_sd_model_name": metadata.get("base_name", ""),
        "ss_output_name": metadata.get("name", ""),
        "ss_steps": metadata.get("step", ""),
    }


def _training(params: Mapping[str, Any]) -> dict[str, str]:
    side = params.get("resolution")
    size = {"ss_resolution": f"({side}, {side})"} if side else {}
    values = {key: params.get(name) for key, name in FROM_PARAMS.items()}
    return size | {key: _text(value) for key, value in values.items() if value is not None}


def _clip_skip(family: str, metadata: Mapping[str, str]) -> dict[str, str]:
    """sd-scripts counts from 1 = the last layer, diffusers from 0; sd-scripts has none for SDXL and later."""
    skip = int(metadata.get("clip_skip", "0"))
    return {"ss_clip_skip": str(skip + 1)} if skip and family in CLIP_SKIP_FAMILIES else {}


def _tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """The trigger word as the only tag; user interfaces suggest tags from here."""
    trigger = metadata.get("trigger_word")
    return {"ss_tag_frequency": json.dumps({"dataset": {trigger: 1}}, ensure_ascii=False)} if trigger else {}


def _modelspec(
    architecture: str, metadata: Mapping[str, str], params: Mapping[str, Any], digest: str
) -> dict[str, str]:
    entries = {
        "sai_model_spec": "1.0.0",
        "architecture": f"{architecture}/lora",
        "implementation": "diffusers",
        "title": metadata.get("name", ""),
        "trigger_phrase": metadata.get("trigger_word", ""),
        "resolution": "{0}x{0}".format(params["resolution"]) if params.get("resolution") else "",
        "prediction_type": {"epsilon": "epsilon", "v_prediction": "v"}.get(metadata.get("prediction_type", ""), ""),
        "hash_sha256": f"0x{digest}",
    }
    return {f"modelspec.{key}": value for key, value in entries.items() if value}


def _hashes(tensors: Mapping[str, Tensor], training: Mapping[str, str]) -> dict[str, str]:
    """As sd-scripts' precalculate_safetensors_hashes: of the tensors alone, and the legacy hash of 64 KiB at 1 MiB."""
    content = file_bytes(tensors, training)
    body = content[8 + int.from_bytes(content[:8], "little") :]
    legacy = content[0x100000 : 0x100000 + 0x10000]
    return {
        "sshs_model_hash": hashlib.sha256(body).hexdigest(),
        "sshs_legacy_hash": hashlib.sha256(legacy).hexdigest()[:8],
    }


def _text(value: Any) -> str:
    """Whole numbers without ".0", as sd-scripts writes them."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
