"""adapter_config.json of a PEFT adaptor: the keys that trainers read, and their bounds."""

import re
from typing import Any

from formats.kinds import (
    YES_NO,
    Cleaned,
    Kinds,
    choice,
    config_clean,
    each,
    either,
    left_out,
    mapping,
    number,
    optional,
    whole,
)

TOKEN_IDS = each(whole(0, 2_000_000), 1000)
MODULE = re.compile(r"[^\x00]{1,500}")
ADAPTOR: Kinds = {
    "peft_type": choice("LORA"),
    "lora_alpha": number(1e-6, 1e6),
    "alpha_pattern": optional(mapping(MODULE, number(1e-6, 1e6), 10_000)),
    "use_rslora": optional(YES_NO),
    "trainable_token_indices": optional(either(TOKEN_IDS, mapping(MODULE, TOKEN_IDS, 10))),
    "rank_pattern": left_out(optional(mapping(MODULE, whole(1, 1 << 16), 10_000))),
}


def adaptor_config_clean(raw: dict[str, Any], file: str) -> Cleaned:
    """Raises ConfigError. Settings that must have one value are the caller's to compare."""
    return config_clean(raw, ADAPTOR, file)
