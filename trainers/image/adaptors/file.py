"""Opens an adaptor's file as if it came from an enemy: nothing is executed, ignored or silently renamed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base

WEIGHTS = "pytorch_lora_weights.safetensors"
"""With the names of diffusers and peft."""
KOHYA = "kohya.safetensors"
"""With the names of kohya's sd-scripts, which ComfyUI and other tools read."""
FOREIGN = (
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".lora_mid.", "LoCon with a Tucker core"),
    (".diff ", "full difference"),
    (".diff_b ", "full difference"),
    (".glora_", "GLoRA"),
    (".on_input", "IA3"),
    ("boft_", "BOFT"),
    ("lora_embedding_", "embedding LoRA"),
    (".lora_B.bias", "LoRA with bias"),
)
"""What a key contains (a space is its end), and the format that it gives away; none is a plain pair of matrices."""
Format = Literal["diffusers", "kohya"]


@dataclass(frozen=True)
class AdaptorFile:
    """All that a file holds; the names are still its own."""

    name: str
    format: Format
    tensors: dict[str, Tensor]
    """fp32 on the CPU."""
    metadata: dict[str, str]
    """The header's own entries, as whoever wrote the file put them."""


def adaptor_open(folder: Path) -> AdaptorFile:
    """The adaptor's weights in `folder`. Raises TrainerError(BAD_ADAPTOR) that names the key that is wrong."""
    path = weights_path(folder)
    tensors, metadata = _read(path)
    _formats_check(tensors)
    for key, value in tensors.items():
        if not (value.is_floating_point() or key.endswith(".alpha")) or 0 in value.shape:
            raise bad(f"{key} has shape {tuple(value.shape)} of {value.dtype}; expected a matrix of floats")
        if not torch.isfinite(value).all():
            count = int((~torch.isfinite(value)).sum())
            raise bad(f"{key} has {count} values that are NaN or infinite")
    floats = {key: value.float() for key, value in tensors.items()}
    return AdaptorFile(path.name, _format(floats), floats, metadata)


def weights_path(folder: Path) -> Path:
    """The diffusers file where there is one, then kohya's, then the only safetensors file of `folder`."""
    for name in (WEIGHTS, KOHYA):
        if (folder / name).is_file():
            return folder / name
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    files = [name for name in names if name.endswith(".safetensors")]
    if len(files) == 1:
        return folder / files[0]
    found = f"found {', '.join((files or names)[:5])}" if names else "found nothing"
    pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names)
    expected = f"expected {WEIGHTS} or one other .safetensors file"
    raise bad(f"{expected}, {found}" + ("; pickle files are never loaded" if pickled and not files else ""))


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
    for key in tensors:
        for mark, name in FOREIGN:
            if mark in f"{key} ":
                raise bad(f"{key} is of the {name} format; expected LoRA or DoRA pairs, of diffusers or of kohya")


def _format(tensors: dict[str, Tensor]) -> Format:
    kohya = ("lora_unet_", "lora_transformer_", "lora_te", "diffusion_model.")
    return "kohya" if any(key.startswith(kohya) for key in tensors) else "diffusers"


TITLES = {
    "sd1": "Stable Diffusion 1.x",
    "sd2": "Stable Diffusion 2.x",
    "sdxl": "Stable Diffusion XL",
    "sd3": "Stable Diffusion 3",
    "flux": "Flux.1",
}
MARKS = (
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
"""How the headers of sd-scripts and of the model specification begin, and the family that it means."""
CLIP_SKIP_FAMILIES = ("sd1", "sd2")
"""Those of which sd-scripts' clip_skip changes the training."""
ENTRIES = ("ss_base_model_version", "modelspec.architecture")


def family_check(file: AdaptorFile, base: Base) -> None:
    """Raises TrainerError(BAD_ADAPTOR) where the header or the network's prefix names another family."""
    for entry in ENTRIES:
        said = file.metadata.get(entry, "")
        family = next((family for mark, family in MARKS if said.lower().startswith(mark)), base.family)
        if family != base.family:
            raise bad(
                f"{file.name} says {entry} = {said}, so it is for {TITLES.get(family, family)}; "
                f"the base model is {TITLES[base.family]}"
            )
    other = {"unet": "transformer", "transformer": "unet"}[base.network_part]
    if key := next((key for key in file.tensors if key.startswith(f"{other}.")), None):
        raise bad(
            f"{key} is of a {other}; the base model is {TITLES[base.family]}, whose network is a {base.network_part}"
        )


def clip_skip_of(metadata: dict[str, str], family: str) -> int:
    """Layers of CLIP that the training left out, as diffusers counts them; 0 where the file does not say it well."""
    own = metadata.get("clip_skip")
    told = own or (metadata.get("ss_clip_skip", "") if family in CLIP_SKIP_FAMILIES else "")
    if not (told.isascii() and told.isdigit()) or family == "flux":
        return 0
    return max(int(told) - (0 if own else 1), 0)


def prediction_type_of(metadata: dict[str, str]) -> str | None:
    """epsilon or v_prediction where the file says so, as we, sd-scripts or the model specification write it."""
    said = metadata.get("prediction_type") or metadata.get("modelspec.prediction_type")
    if said:
        return {"v": "v_prediction"}.get(said, said)
    return {"True": "v_prediction", "False": "epsilon"}.get(metadata.get("ss_v_parameterization", ""))
