"""Reads an adaptor's file as if it came from an enemy: nothing is executed, ignored or silently renamed."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from trainers.errors import ReasonCode, TrainerError

WEIGHTS = "pytorch_lora_weights.safetensors"
FOREIGN = (
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    ("lora_magnitude_vector", "DoRA"),
    (".dora_scale", "DoRA"),
    (".lora_down.", "kohya"),
    (".lora.down.", "old diffusers"),
)
"""What a key contains, and the format that it gives away."""
HEADER_KEYS = {"r", "lora_alpha", "target_modules", "rank_pattern", "alpha_pattern", "use_rslora"}


@dataclass(frozen=True)
class AdaptorFile:
    """LoRA pairs by UNet module: `<module>.lora_A.weight` (r, in, ...) and `<module>.lora_B.weight` (out, r, ...)."""

    tensors: dict[str, Tensor]
    header: dict[str, Any]
    """`lora_adapter_metadata` of the UNet, "unet." removed; empty for a file that has none."""
    metadata: dict[str, str]
    """The other entries of the file's header, as the trainer wrote them."""

    @property
    def modules(self) -> list[str]:
        return sorted({key.rsplit(".lora_", 1)[0] for key in self.tensors})

    @property
    def use_rslora(self) -> bool:
        return bool(self.header.get("use_rslora", False))

    def alpha(self, module: str, rank: int) -> float:
        """alpha of `module`; without a header it is the rank, so that the scaling is 1, as in diffusers."""
        alphas = self.header.get("alpha_pattern") or {}
        return float(alphas.get(module, alphas.get(f"^{module}", self.header.get("lora_alpha", rank))))


def adaptor_read(folder: Path) -> AdaptorFile:
    """The adaptor in `folder`. Raises TrainerError(BAD_ADAPTOR) that names the key or tensor that is wrong."""
    tensors, metadata = _open(_weights_path(folder))
    _formats_check(tensors)
    unet = {key.removeprefix("unet."): value for key, value in tensors.items()}
    _pairs_check(unet)
    for key, value in tensors.items():
        if not torch.isfinite(value).all():
            bad = int((~torch.isfinite(value)).sum())
            raise _bad(f"{key} has {bad} values that are NaN or infinite")
    return AdaptorFile(tensors=unet, header=_header(metadata), metadata=metadata)


def targets_check(unet: nn.Module, file: AdaptorFile) -> None:
    """Every pair must sit on a linear or convolution layer of `unet` and have its shape."""
    known = dict(unet.named_modules())
    for module in file.modules:
        layer = known.get(module)
        base = layer.base_layer if isinstance(layer, LoraLayer) else layer
        if not isinstance(base, (nn.Linear, nn.Conv2d)):
            raise _bad(f"unet.{module} matches no layer of the base model")
        a, b, weight = file.tensors[f"{module}.lora_A.weight"], file.tensors[f"{module}.lora_B.weight"], base.weight
        if a.shape[1:] != weight.shape[1:] or b.shape[0] != weight.shape[0] or b.shape[1] != a.shape[0]:
            raise _bad(
                f"unet.{module} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}, "
                f"which do not fit the base model's weight {tuple(weight.shape)}"
            )


def _weights_path(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    found = f"found {', '.join(names[:5])}" if names else "found nothing"
    pickled = any(name.endswith((".bin", ".pt", ".pth", ".ckpt")) for name in names)
    raise _bad(f"expected {WEIGHTS}, {found}" + ("; pickle files are never loaded" if pickled else ""))


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in sorted(file.keys())}, file.metadata() or {}
    except SafetensorError as error:
        raise _bad(f"{path.name} is not a safetensors file: {error}") from error


def _formats_check(tensors: dict[str, Tensor]) -> None:
    if not tensors:
        raise _bad("the file holds no tensor")
    for key in tensors:
        for mark, name in FOREIGN:
            if mark in key:
                raise _bad(f"{key} is of the {name} format; expected diffusers/PEFT keys (unet.<layer>.lora_A.weight)")
        if not key.startswith("unet."):
            raise _bad(f"{key} matches nothing; expected keys that begin with unet.")


def _pairs_check(tensors: dict[str, Tensor]) -> None:
    for key in tensors:
        if not key.endswith((".lora_A.weight", ".lora_B.weight")):
            raise _bad(f"unet.{key} matches nothing; expected unet.<layer>.lora_A.weight or .lora_B.weight")
    for key, value in tensors.items():
        module, _, half = key.rpartition(".lora_")
        other = f"{module}.lora_{'B' if half[0] == 'A' else 'A'}.weight"
        if other not in tensors:
            raise _bad(f"unet.{key} lacks its other half unet.{other}")
        if value.ndim < 2 or not value.is_floating_point() or 0 in value.shape:
            raise _bad(f"unet.{key} has shape {tuple(value.shape)} of {value.dtype}; expected a matrix of floats")


def _header(metadata: dict[str, str]) -> dict[str, Any]:
    """The UNet's part of `lora_adapter_metadata`. What would change the mathematics and is not known is refused."""
    try:
        raw = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        header = {key.removeprefix("unet."): value for key, value in raw.items() if key.startswith("unet.")}
    except (ValueError, AttributeError) as error:
        raise _bad(f"lora_adapter_metadata is not a JSON object: {error}") from error
    if header.get("use_dora"):
        raise _bad("the header says use_dora, which is not supported yet")
    return {key: value for key, value in header.items() if key in HEADER_KEYS}


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_ADAPTOR, message)
