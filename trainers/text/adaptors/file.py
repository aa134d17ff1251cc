"""Reads an untrusted PEFT folder strictly: executes nothing, and refuses every unknown tensor and setting."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from formats.models.adaptors import PEFT_DOWN, PEFT_UP, adaptor_config_clean
from formats.models.configs import ConfigError, json_file_read
from trainers.contract.errors import ReasonCode, TrainerError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
ROW_SUFFIX = "token_adapter.trainable_tokens_delta"
HALVES = (PEFT_DOWN, PEFT_UP)
PLAIN: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none", None),
    "use_dora": (False, None),
    "modules_to_save": (None, []),
    "layer_replication": (None,),
    "fan_in_fan_out": (False, None),
    "lora_bias": (False, None),
    "use_qalora": (False, None),
}
"""Settings that change the computation, with the supported values; the first is the default."""


@dataclass(frozen=True)
class TextAdaptorFile:
    pairs: dict[str, Tensor]
    """`<module>.lora_A.weight` (r, in) and `<module>.lora_B.weight` (out, r); module names relative to the model."""
    row: Tensor | None
    """(D,): the trained embedding of the mask token."""
    row_ids: tuple[int, ...]
    row_module: str
    settings: dict[str, Any]
    metadata: dict[str, str]

    def config(self) -> LoraConfig:
        """Ranks per module from the tensors, alphas per module from the settings."""
        ranks = {m: self.pairs[f"{m}{HALVES[0]}"].shape[0] for m in self._modules()}
        return LoraConfig(
            r=next(iter(ranks.values())),
            lora_alpha=1,
            target_modules=list(ranks),
            rank_pattern={f"^{module}": rank for module, rank in ranks.items()},
            alpha_pattern={f"^{module}": self._alpha(module) for module in ranks},
            use_rslora=bool(self.settings.get("use_rslora")),
        )

    def check(self, modules: Mapping[str, nn.Module], embedding: str, mask_id: int) -> None:
        """Raises TrainerError unless every pair fits a linear layer and the row is the mask token's."""
        for module in self._modules():
            layer = modules.get(module)
            linear = layer.base_layer if isinstance(layer, LoraLayer) else layer
            if not isinstance(linear, nn.Linear):
                raise _bad(f"{module} is no linear layer of the base model")
            a, b = (self.pairs[f"{module}{half}"] for half in HALVES)
            expected = (linear.out_features, linear.in_features)
            if (b.shape[0], a.shape[1]) != expected or a.shape[0] != b.shape[1]:
                raise _bad(
                    f"{module} has lora_A {tuple(a.shape)} and lora_B {tuple(b.shape)}, which do not fit the base "
                    f"model's weight {expected}"
                )
        if self.row is None:
            return
        if self.row_module != embedding or self.row_ids != (mask_id,):
            raise _bad(
                f"it holds rows {list(self.row_ids)} of {self.row_module}; "
                f"expected the mask token {mask_id} of {embedding}"
            )
        matrix = modules[embedding]
        assert isinstance(matrix, nn.Embedding)
        if self.row.shape != (matrix.embedding_dim,):
            raise _bad(f"the mask token's row has shape {tuple(self.row.shape)}, expected ({matrix.embedding_dim},)")

    def _modules(self) -> list[str]:
        return sorted({key.rsplit(".lora_", 1)[0] for key in self.pairs})

    def _alpha(self, module: str) -> float:
        patterns = self.settings.get("alpha_pattern") or {}
        return float(patterns.get(module, patterns.get(f"^{module}", self.settings["lora_alpha"])))


def text_adaptor_read(folder: Path) -> TextAdaptorFile:
    """The adaptor in `folder`. Raises TrainerError(BAD_ADAPTOR) that names the invalid key, tensor or setting."""
    settings = _settings(folder)
    tensors, metadata = _open(folder)
    rows = {key: value for key, value in tensors.items() if key.endswith(f".{ROW_SUFFIX}")}
    pairs = {key: value for key, value in tensors.items() if key not in rows}
    _pairs_check(pairs)
    row_ids = _row_ids(settings.get("trainable_token_indices"))
    if len(rows) > 1 or bool(rows) != bool(row_ids):
        raise _bad(f"trainable_token_indices names {list(row_ids)}, but the file holds {len(rows)} trained rows")
    key, value = next(iter(rows.items()), ("", None))
    return TextAdaptorFile(
        pairs=pairs,
        row=None if value is None else value.reshape(-1),
        row_ids=row_ids,
        row_module=key.removesuffix(f".{ROW_SUFFIX}"),
        settings=settings,
        metadata=metadata,
    )


def _settings(folder: Path) -> dict[str, Any]:
    try:
        settings = json_file_read(folder / CONFIG, CONFIG)
    except (OSError, ValueError) as error:
        raise _bad(f"{CONFIG} cannot be read: {error}") from error
    if settings.get("lora_alpha") is None:
        raise _bad(f"{CONFIG} has no lora_alpha")
    for key, values in PLAIN.items():
        if settings.get(key, values[0]) not in values:
            raise _bad(f"{CONFIG}: {key} is {settings[key]!r:.100}, expected {values[0]!r}")
    try:
        return adaptor_config_clean(settings, CONFIG).values
    except ConfigError as error:
        raise _bad(str(error)) from error


def _open(folder: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors by their names relative to the model, and the file's metadata."""
    path = folder / WEIGHTS
    if not path.is_file():
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) if folder.is_dir() else "nothing"
        raise _bad(f"expected {WEIGHTS}, found {present}; pickle files are never loaded")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except SafetensorError as error:
        raise _bad(f"{WEIGHTS} is not a safetensors file: {error}") from error
    for key, value in tensors.items():
        if not key.startswith(PREFIX):
            raise _bad(f"{key} matches nothing; expected keys that begin with {PREFIX}")
        if not value.is_floating_point() or not bool(torch.isfinite(value).all()):
            raise _bad(f"{key} has values that are NaN, infinite or not floats")
    return {key.removeprefix(PREFIX): value for key, value in tensors.items()}, metadata


def _pairs_check(pairs: dict[str, Tensor]) -> None:
    if not pairs:
        raise _bad("the file holds no LoRA pair")
    for key, value in pairs.items():
        half = next((h for h in HALVES if key.endswith(h)), None)
        if half is None or value.ndim != 2:
            raise _bad(f"{key} of shape {tuple(value.shape)} matches nothing; expected <layer>.lora_A.weight matrices")
        other = key.removesuffix(half) + (HALVES[1] if half == HALVES[0] else HALVES[0])
        if other not in pairs:
            raise _bad(f"{key} lacks its other half {other}")


def _row_ids(indices: Any) -> tuple[int, ...]:
    """Token ids of trainable_token_indices: a list for the input embedding, or a dict by module."""
    if isinstance(indices, dict):
        indices = next(iter(indices.values()), [])
    return tuple(int(i) for i in indices or ())


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_ADAPTOR, message)
