"""T5 as text encoder: padded token ids, last hidden states. The padding is seen too, as stock diffusers does it."""

# B batch, L tokens, D width

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5Tokenizer

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.tokenizer_open import tokenizer_open


def t5_tokenizer(folder: Path, part: str) -> T5Tokenizer:
    """From tokenizer.json, or from spiece.model alone."""
    if not any((folder / part / name).is_file() for name in ("tokenizer.json", "spiece.model")):
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected {part}/tokenizer.json or {part}/spiece.model, found neither"
        )
    tokenizer: T5Tokenizer = tokenizer_open(T5Tokenizer, folder, part)
    return tokenizer


def t5_ids(tokenizer: Any, text: str, length: int) -> Tensor:
    """Token ids (L), cut and padded to `length`."""
    return torch.tensor(tokenizer(text, padding="max_length", max_length=length, truncation=True).input_ids)


def t5_states(encoder: Any, ids_BL: Tensor) -> Tensor:
    """(B, L, D)"""
    states_BLD: Tensor = encoder(ids_BL.to(encoder.device)).last_hidden_state
    return states_BLD
