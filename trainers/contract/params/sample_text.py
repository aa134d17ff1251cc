"""Parameters of `sample_text`."""

import re
from typing import Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from trainers.contract.params.base import Product
from trainers.contract.params.decoding import TEXT_FAMILIES, DecodingParams

MASK = "[MASK]"
"""What stands for one mask in infill_texts; [MASK:5] stands for five."""
GAPS = re.compile(r"\[MASK[^\]]{0,20}\]?")
GAP = re.compile(r"\[MASK(:[1-9]\d{0,3})?\]")
MAX_CHARACTERS = 100_000
Chat = tuple[dict[str, str], ...]


class SampleTextParams(DecodingParams):
    """Answers prompts or chats, or fills the gaps of texts, by denoising, with any number of adaptors."""

    method: ClassVar[str] = "sample_text"
    summary: ClassVar[str] = "Answer prompts, or fill gaps in texts, with a text-diffusion model and adaptors."
    entry: ClassVar[str] = "trainers.methods.sample_text:sample"
    product: ClassVar[Product] = "samples"
    requires: ClassVar[tuple[str, ...]] = ("model",)
    accepts: ClassVar[tuple[str, ...]] = ("adaptors",)
    model_families: ClassVar[tuple[str, ...]] = TEXT_FAMILIES
    resident_fields: ClassVar[tuple[str, ...]] = ("dtype", "load_in_4bit")

    prompts: tuple[str, ...] = Field((), max_length=256)
    """Questions, each answered in the base's own chat format."""
    messages: tuple[Chat, ...] = Field((), max_length=256)
    """Chats of {role, content}, each ending with the user's turn, which is answered."""
    infill_texts: tuple[str, ...] = Field((), max_length=256)
    """Texts with gaps: [MASK] is one token, [MASK:5] five. What is there stays as it is."""
    num_samples: int = Field(1, ge=1, le=64)
    """Texts for each prompt, chat or text with gaps."""

    @property
    def asked(self) -> tuple[Any, ...]:
        """Whichever of the three is given."""
        return self.prompts or self.messages or self.infill_texts

    @field_validator("prompts", "infill_texts")
    @classmethod
    def _says_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if not text.strip() or len(text) > MAX_CHARACTERS:
                raise ValueError(f"each must have 1 to {MAX_CHARACTERS} characters, got {len(text)}")
        return value

    @field_validator("messages")
    @classmethod
    def _ends_with_the_user(cls, value: tuple[Chat, ...]) -> tuple[Chat, ...]:
        for chat in value:
            if not chat or any(set(turn) != {"role", "content"} for turn in chat) or chat[-1]["role"] != "user":
                raise ValueError("each must be turns of {role, content} of which the last is the user's")
        return value

    @field_validator("infill_texts")
    @classmethod
    def _has_gaps(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if "[MASK" not in text:
                raise ValueError(f"each must have a gap, {MASK} or [MASK:5]; got {text[:60]!r}")
            if wrong := [gap[0] for gap in GAPS.finditer(text) if not GAP.fullmatch(gap[0])]:
                raise ValueError(
                    f"a gap is {MASK} or [MASK:n] with n from 1 to 9999, got {wrong[0]!r} in {text[:60]!r}"
                )
        return value

    @model_validator(mode="after")
    def _fields_agree(self) -> Self:
        """
        - One of `prompts`, `messages` and `infill_texts` is given.
        - `infill_texts` say themselves how many masks they have: `max_new_tokens` has no say.
        """
        sources = [name for name in ("prompts", "messages", "infill_texts") if getattr(self, name)]
        if len(sources) != 1:
            raise ValueError(f"give one of prompts, messages and infill_texts, got {' and '.join(sources) or 'none'}")
        if self.infill_texts and self.max_new_tokens is not None:
            raise ValueError(f"max_new_tokens={self.max_new_tokens} does nothing with infill_texts; write [MASK:n]")
        return self
