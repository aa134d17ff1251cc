"""The dataset of `image_lora`, ready to draw from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from trainers.core.cache import stores_digest
from trainers.core.encoding_cache import EncodingCache
from trainers.image.data.framing import Framing
from trainers.image.data.image_rows import ImageRow
from trainers.image.data.latents import Latents
from trainers.image.data.masks import MaskKind
from trainers.image.data.texts import TextKind, Texts
from trainers.image.models.base import Base, TextSettings


class Row(NamedTuple):
    """One image with the texts that a draw chooses from, trigger word included."""

    image: ImageRow
    texts: Sequence[str]
    of_class: bool = False
    """A class image of prior preservation: its caption is never dropped, and it has no mask."""


@dataclass(frozen=True)
class Encoding:
    """What becomes of images and captions, and when."""

    framing: Framing
    keep_latents: bool
    """Encode every crop once, before the training; else when it is drawn."""
    text: TextKind
    text_settings: TextSettings
    mask: MaskKind | None


@dataclass(frozen=True)
class Examples:
    rows: Sequence[Row]
    latents: Latents
    texts: Texts
    encoding: Encoding

    @property
    def needs_vae(self) -> bool:
        """Whether draws encode images."""
        return not self.encoding.keep_latents

    @property
    def needs_text_encoders(self) -> bool:
        """Whether draws, or the objective, embed texts."""
        return self.encoding.text != "kept"

    def digest(self) -> str:
        """Of all that is kept."""
        return stores_digest(self.latents.stores | self.texts.stores)


def examples_encode(
    base: Base, rows: Sequence[Row], encoding: Encoding, *, further_texts: Sequence[str], encoding_cache: EncodingCache
) -> Examples | None:
    """Encodes what the cache does not hold, one item at a time, so that no bit depends on neighbours. None: stopped."""
    latents = Latents(base, [row.image for row in rows], encoding.framing, encoding.mask)
    if encoding.keep_latents and not latents.keep(encoding_cache):
        return None
    every_text = [*(text for row in rows for text in row.texts), *further_texts]
    texts = Texts(base, every_text, encoding.text, encoding.text_settings)
    return Examples(rows, latents, texts, encoding) if texts.keep(encoding_cache) else None
