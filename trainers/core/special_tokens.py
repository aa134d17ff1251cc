"""Special tokens must have a row in the network's embedding; a tokenizer's files may name others."""

from typing import Any

from formats.models.configs import value_shown
from formats.models.tokenizer_files import ROLES
from trainers.contract.errors import ReasonCode, TrainerError


def special_tokens_check(tokenizer: Any, vocab_size: int, name: str) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) for a special token of `tokenizer` with an id of `vocab_size` or more."""
    for role in ROLES:
        index = getattr(tokenizer, f"{role}_id", None)
        if index is not None and index >= vocab_size:
            shown = value_shown(getattr(tokenizer, role))
            raise TrainerError(
                ReasonCode.BAD_BASE_MODEL,
                f"{name}: {role} {shown} has the id {index}, expected one below the network's {vocab_size} rows",
            )
