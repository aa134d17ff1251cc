"""What one family of text models is: its native class, and how the names of its checkpoints become that class's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from formats.text_configs import FAMILIES


@dataclass(frozen=True)
class SpecialIds:
    """Token ids that stand in where neither the config nor the tokenizer says them."""

    mask: int | None = None
    eos: int | None = None
    pad: int | None = None
    bos: int | None = None


@dataclass(frozen=True)
class TextFamily:
    name: str
    title: str
    model_class: Any
    config_of: Callable[[dict[str, Any]], Any]
    """config.json of a checkpoint in its original format -> the native class's config. May raise TrainerError."""
    native_name: Callable[[str], str | None]
    """A tensor's name in the original format -> ours; None: not part of the network, skipped."""
    original_name: Callable[[str], str]
    original_config: Callable[[Any], dict[str, Any]]
    """The native config -> config.json of the original format."""
    tokenizer_class: str
    """Name in transformers of the tokenizer, where the folder's own is remote code or not named."""
    ids: SpecialIds = SpecialIds()
    mask_token: str | None = None
    bos_token: str | None = None
    """Their names in the family's own vocabulary, for tokenizers that do not say which they are."""
    shift: bool = False

    @property
    def is_causal(self) -> bool:
        """Checkpoints in the original format are causal language models."""
        return FAMILIES[self.name].is_causal


def same_name(name: str) -> str:
    return name
