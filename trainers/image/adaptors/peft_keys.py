"""Pairs as diffusers and peft name them: `unet.<layer>.lora_A.weight`, with `lora_adapter_metadata` in the header."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from formats.models.adaptors import OLDER_DOWN, OLDER_UP
from formats.models.adaptors import PEFT_DOWN as A
from formats.models.adaptors import PEFT_MAGNITUDE as MAGNITUDE
from formats.models.adaptors import PEFT_UP as B
from foundation.strict_json import JsonError, json_object_read
from trainers.image.adaptors.pairs import TEXT_PREFIX, Pair, Pairs, bad, plain_name

PARTS = ("unet", "transformer", "text_encoder", "text_encoder_2")
OLDER_NAMES = (
    (".processor.", "."),
    ("to_out_lora.", "to_out.0_lora."),
    *((older, A) for older in OLDER_DOWN),
    *((older, B) for older in OLDER_UP),
    (".lora_magnitude_vector.weight", MAGNITUDE),
)
"""(names in earlier versions of diffusers, current names)"""
OLDER_TEXT_NAMES = (
    (".to_q.", ".q_proj."),
    (".to_k.", ".k_proj."),
    (".to_v.", ".v_proj."),
    (".to_out.0.", ".out_proj."),
)
HEADER = "lora_adapter_metadata"


def peft_tensors(pairs: Pairs) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for part, by_layer in pairs.items():
        prefix = f"{part}.{TEXT_PREFIX}" if part.startswith("text_encoder") else f"{part}."
        for layer, pair in by_layer.items():
            tensors |= {f"{prefix}{layer}{A}": pair.down, f"{prefix}{layer}{B}": pair.up}
            if pair.magnitude_O is not None:
                shape = (1, -1, 1, 1) if pair.down.ndim == 4 else (-1,)
                # diffusers passes a text encoder's keys to transformers, which expects the full name of the parameter
                ending = ".weight" if part.startswith("text_encoder") else ""
                tensors[f"{prefix}{layer}{MAGNITUDE}{ending}"] = pair.magnitude_O.reshape(shape)
    return tensors


def peft_header(pairs: Pairs) -> str:
    """The peft config of each part. It keeps alpha: without it diffusers assumes that alpha is the rank."""
    header: dict[str, Any] = {}
    for part, by_layer in pairs.items():
        # whether a text encoder's names begin with text_model. depends on the version of transformers: no anchor
        anchor = "" if part.startswith("text_encoder") else "^"
        r = _most_common(pair.rank for pair in by_layer.values())
        alpha = _most_common(pair.alpha for pair in by_layer.values())
        config = {
            "r": r,
            "lora_alpha": alpha,
            "target_modules": sorted(by_layer),
            "rank_pattern": {anchor + name: pair.rank for name, pair in by_layer.items() if pair.rank != r},
            "alpha_pattern": {anchor + name: pair.alpha for name, pair in by_layer.items() if pair.alpha != alpha},
            "use_dora": any(pair.magnitude_O is not None for pair in by_layer.values()),
        }
        header |= {f"{part}.{key}": value for key, value in config.items()}
    return json.dumps(header, sort_keys=True)


def peft_pairs(file_tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Pairs:
    """The pairs of a diffusers file with current or earlier names. Raises TrainerError(BAD_ADAPTOR)."""
    tensors = {_renamed(key): value for key, value in file_tensors.items()}
    header = _header(metadata)
    pairs: Pairs = {}
    for key in tensors:
        part, _, rest = key.partition(".")
        if part not in PARTS or not rest:
            raise bad(f"{key} matches nothing; expected keys that begin with {'., '.join(PARTS)}.")
        if not key.endswith((A, B, MAGNITUDE)):
            raise bad(f"{key} matches nothing; expected {part}.<layer>{A}, {B} or {MAGNITUDE}")
        module = key.removesuffix(A).removesuffix(B).removesuffix(MAGNITUDE)
        layer = plain_name(module.removeprefix(f"{part}."))
        if layer not in pairs.setdefault(part, {}):
            pairs[part][layer] = _pair(tensors, module, part, layer, header)
    for part, by_layer in pairs.items():
        if header.get(f"{part}.use_dora") and all(pair.magnitude_O is None for pair in by_layer.values()):
            raise bad(f"{HEADER} says {part}.use_dora, but no layer has a {MAGNITUDE.removeprefix('.')}")
    return pairs


def _pair(tensors: Mapping[str, Tensor], module: str, part: str, layer: str, header: Mapping[str, Any]) -> Pair:
    for half, other in ((A, B), (B, A)):
        if module + half not in tensors:
            present = next(key for key in (module + other, module + MAGNITUDE) if key in tensors)
            raise bad(f"{present} lacks its other half {module + half}")
    down, up = tensors[module + A], tensors[module + B]
    if down.ndim not in (2, 4) or up.ndim != down.ndim or up.shape[1] != down.shape[0]:
        raise bad(f"{module} has lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}, which do not go together")
    magnitude = tensors.get(module + MAGNITUDE)
    return Pair(
        down, up, _alpha(header, part, layer, down.shape[0]), None if magnitude is None else magnitude.flatten()
    )


def _alpha(header: Mapping[str, Any], part: str, layer: str, rank: int) -> float:
    """Alpha of the layer; without a header the rank, so that the scaling is 1, as in diffusers."""
    try:
        patterns = {plain_name(str(key).removeprefix("^")): value for key, value in _patterns(header, part).items()}
        alphas = [value for key, value in patterns.items() if f".{layer}".endswith(f".{key}")]
        alpha = float(alphas[0] if alphas else header.get(f"{part}.lora_alpha", rank))
    except (AttributeError, TypeError, ValueError) as error:
        raise bad(f"{HEADER} gives {part}.{layer} an alpha that is no number: {error}") from error
    if not math.isfinite(alpha):
        raise bad(f"{HEADER} gives {part}.{layer} the alpha {alpha}")
    # rslora divides by sqrt(r): the same scaling as alpha sqrt(r) divided by r
    return alpha * math.sqrt(rank) if header.get(f"{part}.use_rslora") else alpha


def _patterns(header: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Alphas by layer, or by the end of a layer's name, as in peft."""
    patterns: dict[str, Any] = header.get(f"{part}.alpha_pattern") or {}
    return patterns


def _header(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        return json_object_read(metadata.get(HEADER, "{}"), HEADER)
    except JsonError as error:
        raise bad(str(error)) from error


def _renamed(key: str) -> str:
    for old, new in OLDER_NAMES:
        key = key.replace(old, new)
    if key.startswith("text_encoder"):
        for old, new in OLDER_TEXT_NAMES:
            key = key.replace(old, new)
    return key


def _most_common(values: Any) -> Any:
    """The most frequent value; of equally frequent ones the first."""
    return Counter(values).most_common(1)[0][0]
