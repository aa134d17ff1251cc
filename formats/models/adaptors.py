"""Names of tensors in files of LoRA adaptors, as PEFT, kohya's sd-scripts and earlier versions of diffusers write them.

Each layer has a pair of matrices: the first ("down", A) goes from the inputs to the rank, the second ("up", B) to the
outputs.
"""

import re
from collections.abc import Iterable
from typing import Any

from formats.models.configs import (
    YES_NO,
    Cleaned,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    integer,
    left_out,
    mapping,
    number,
    optional,
)

PEFT_DOWN, PEFT_UP, PEFT_MAGNITUDE = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
KOHYA_DOWN, KOHYA_UP, KOHYA_ALPHA, KOHYA_MAGNITUDE = ".lora_down.weight", ".lora_up.weight", ".alpha", ".dora_scale"
OLDER_DOWN = ("lora.down.weight", "lora_linear_layer.down.weight")
OLDER_UP = ("lora.up.weight", "lora_linear_layer.up.weight")
"""Of diffusers before PEFT; `_lora.down.weight` and `.lora.down.weight` both occur."""
DOWN = (PEFT_DOWN, KOHYA_DOWN, *OLDER_DOWN, ".lora_A.default.weight")
"""Ends of the first matrix of a pair."""
UP = (PEFT_UP, KOHYA_UP, *OLDER_UP, ".lora_B.default.weight")
KOHYA_STARTS = ("lora_unet_", "lora_transformer_", "lora_te", "diffusion_model.")
"""Of keys in files of kohya's sd-scripts and ComfyUI."""
OTHER_KINDS = (
    (".hada_", "LoHa"),
    (".lokr_", "LoKr"),
    (".oft_", "OFT"),
    (".lora_mid.", "LoCon with a Tucker core"),
    (".diff ", "full difference"),
    (".diff_b ", "full difference"),
    (".glora_", "GLoRA"),
    (".on_input", "IA3"),
    (".ia3_l", "IA3"),
    ("boft_", "BOFT"),
    ("lora_embedding_", "embedding LoRA"),
    (".lora_B.bias", "LoRA with bias"),
)
"""What a key contains (a space is its end), and the kind of adaptor that it gives away; none is a plain pair."""
TOKEN_IDS = each(integer(0, 2_000_000), 1000)
MODULE = re.compile(r"[^\x00]{1,500}")
ADAPTOR: Kinds = {
    "peft_type": choice("LORA"),
    "lora_alpha": number(1e-6, 1e6),
    "alpha_pattern": optional(mapping(MODULE, number(1e-6, 1e6), 10_000)),
    "use_rslora": optional(YES_NO),
    "trainable_token_indices": optional(either(TOKEN_IDS, mapping(MODULE, TOKEN_IDS, 10))),
    "rank_pattern": left_out(optional(mapping(MODULE, integer(1, 1 << 16), 10_000))),
}


def is_lora(names: Iterable[str]) -> bool:
    """Whether there is a pair at all."""
    return any(name.endswith((*DOWN, *UP)) for name in names)


def other_kind(names: Iterable[str]) -> tuple[str, str] | None:
    """The first key of an adaptor that is no plain LoRA, and the kind of that adaptor."""
    return next(((name, kind) for name in names for mark, kind in OTHER_KINDS if mark in f"{name} "), None)


def adaptor_config_clean(raw: dict[str, Any], file: str) -> Cleaned:
    """Raises ConfigError. Settings that must have one value are the caller's to compare."""
    return config_clean(raw, ADAPTOR, file)
