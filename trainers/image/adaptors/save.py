"""Writes an adaptor as the two files that other tools read: diffusers' and kohya's."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from foundation.atomic import bytes_write
from trainers.core.lora import TRAINED
from trainers.core.safetensors_file import file_bytes
from trainers.image.adaptors.file import KOHYA, WEIGHTS
from trainers.image.adaptors.kohya import kohya_tensors
from trainers.image.adaptors.kohya_header import kohya_header
from trainers.image.adaptors.layers import live_pairs
from trainers.image.adaptors.pairs import Pairs
from trainers.image.adaptors.peft_keys import HEADER, peft_header, peft_tensors
from trainers.image.models.base import Base

HOW_TO_USE = ("prediction_type", "clip_skip")
"""Entries of the header that whoever draws with the adaptor needs; a file without metadata keeps them too."""


def adaptor_save(
    base: Base,
    folder: Path,
    *,
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Writes the pairs in training on `base` below `folder`; the path of the diffusers file.

    `state` stands in for the live weights where it is given (EMA). `metadata` and `config`: see `adaptor_write`.
    """
    return adaptor_write(base, folder, live_pairs(base, TRAINED, state), metadata=metadata, config=config)


def adaptor_write(
    base: Base,
    folder: Path,
    pairs: Pairs,
    *,
    metadata: Mapping[str, str],
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `pairs` as diffusers and as kohya file. Equal weights, metadata and config give equal bytes.

    `metadata` joins the header of the diffusers file: base_sha256, base_name, name, trigger_word, prediction_type,
    clip_skip, step. `config` is the job's parameters; its `no_metadata` keeps kohya's entries about the training away.
    """
    assert pairs, "an adaptor without pairs"
    params = config or {}
    header = {**metadata, "format": "pt", HEADER: peft_header(pairs)}
    bytes_write(folder / WEIGHTS, file_bytes(peft_tensors(pairs), header))
    tensors = kohya_tensors(base, pairs)
    told: dict[str, str] = {}
    if not params.get("no_metadata"):
        distilled = base.family == "flux" and not base.network.config.guidance_embeds
        told = kohya_header(tensors, pairs, base.family, metadata, params, is_distilled=distilled)
    # lora_adapter_metadata would make diffusers look for peft's names
    functional = {key: metadata[key] for key in ("base_sha256", *HOW_TO_USE) if key in metadata}
    bytes_write(folder / KOHYA, file_bytes(tensors, {**functional, **told, "format": "pt"}))
    return folder / WEIGHTS


def how_to_use(metadata: Mapping[str, str]) -> dict[str, Any]:
    """HOW_TO_USE of a header, for a manifest: numbers as numbers."""
    found: dict[str, Any] = {key: metadata[key] for key in HOW_TO_USE if key in metadata}
    return found | ({"clip_skip": int(found["clip_skip"])} if "clip_skip" in found else {})
