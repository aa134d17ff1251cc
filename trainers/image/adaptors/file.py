"""Opens an adaptor file that may be hostile: nothing is executed, ignored or silently renamed. Reads what its header
says of the base model and the training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from formats.models.adaptors import KOHYA_ALPHA, KOHYA_STARTS, other_kind
from formats.models.image_families import FAMILIES
from formats.models.safetensors_header import PICKLE_ENDINGS
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base

WEIGHTS = "pytorch_lora_weights.safetensors"
"""With the names of diffusers and peft."""
KOHYA = "kohya.safetensors"
"""With the names of kohya's sd-scripts, which ComfyUI and other tools read."""
FAMILY_PREFIXES = (
    ("stable-diffusion-xl", "sdxl"),
    ("sdxl", "sdxl"),
    ("stable-diffusion-3", "sd3"),
    ("sd3", "sd3"),
    ("flux-1", "flux"),
    ("flux1", "flux"),
    ("flux-2", "Flux.2"),
    ("stable-diffusion-v2", "sd2"),
    ("sd_v2", "sd2"),
    ("stable-diffusion-v1", "sd1"),
    ("sd_v1", "sd1"),
)
"""(prefix of the entries in sd-scripts' or the model specification's header, family)."""
CLIP_SKIP_FAMILIES = ("sd1", "sd2")
"""Families for which sd-scripts' clip_skip changes the training."""
FAMILY_ENTRIES = ("ss_base_model_version", "modelspec.architecture")
Format = Literal["diffusers", "kohya"]


@dataclass(frozen=True)
class AdaptorFile:
    """The content of a file; tensors still have the file's names."""

    name: str
    format: Format
    tensors: dict[str, Tensor]
    """fp32 on the CPU."""
    metadata: dict[str, str]
    """The entries of the header, unchecked."""


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


def bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_ADAPTOR, message)


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


def clip_skip_of(metadata: dict[str, str], family: str) -> int:
    """Layers of CLIP that the training skipped, as diffusers counts them; 0 if the file has no valid entry."""
    from_zero = metadata.get("clip_skip")
    value = from_zero or (metadata.get("ss_clip_skip", "") if family in CLIP_SKIP_FAMILIES else "")
    if not (value.isascii() and value.isdigit()) or family == "flux":
        return 0
    return max(int(value) - (0 if from_zero else 1), 0)  # sd-scripts counts from 1


def prediction_type_of(metadata: dict[str, str]) -> str | None:
    """epsilon or v_prediction if the header has it as we, sd-scripts or the model specification write it."""
    value = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type")
    if value:
        return {"v": "v_prediction"}.get(value, value)
    return {"True": "v_prediction", "False": "epsilon"}.get(metadata.get("ss_v_parameterization", ""))
