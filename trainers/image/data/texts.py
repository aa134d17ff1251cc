"""Captions as the network wants them: embedded once, embedded when a draw wants them, or as token ids."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Literal

import torch

from trainers.core.cache import Store, cache_key, weights_digest
from trainers.core.encoding_cache import EncodingCache
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import family_module
from trainers.image.models.text import Text

TextKind = Literal["kept", "fresh", "ids"]
"""kept: every text is embedded once; fresh: at every draw; ids: the objective does it, since the encoder is trained."""


class Texts:
    """All texts that a job may draw. They are tokenized here once: tokenizers do not serve two threads."""

    def __init__(self, base: Base, texts: Sequence[str], kind: TextKind, settings: TextSettings) -> None:
        self._base = base
        self._kind = kind
        self._settings = settings
        self._family = family_module(base.family)
        distinct = list(dict.fromkeys(texts))
        self._ids = dict(zip(distinct, self._family.tokenize(base, distinct, settings), strict=True))
        self.stores: dict[str, Store] = {}
        """What is kept: "text"."""

    def keep(self, encoding_cache: EncodingCache) -> bool:
        """Embeds every text that the cache does not hold. False: a stop was wanted meanwhile."""
        if self._kind != "kept":
            return True
        encoders = [weights_digest(encoder) for encoder in self._base.text_encoders]
        self._keys = {text: self._key(ids, encoders) for text, ids in self._ids.items()}
        work = {key: partial(self._embedded, text) for text, key in self._keys.items()}
        embeddings = encoding_cache.keep("embeddings", "encoding captions", work)
        if embeddings is not None:
            self.stores["text"] = embeddings
        return embeddings is not None

    def __getitem__(self, text: str) -> Text:
        """Without a batch axis, on the CPU."""
        if self._kind == "ids":
            return self._ids[text]
        return self.stores["text"][self._keys[text]] if self.stores else self._embedded(text)

    @torch.no_grad()
    def _embedded(self, text: str) -> Text:
        ids = {name: value[None] for name, value in self._ids[text].items()}
        return {name: value[0].cpu() for name, value in self._family.embed(self._base, ids, self._settings).items()}

    def _key(self, ids: Text, encoders: Sequence[str]) -> str:
        tokens = {name: value.tolist() for name, value in ids.items()}
        return cache_key(tokens=tokens, encoders=list(encoders), settings=asdict(self._settings))
