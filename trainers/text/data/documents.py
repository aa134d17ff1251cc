"""Turns encoded rows into training documents: truncates or drops long rows and adds end tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trainers.text.data.chat import Encoded, Role


@dataclass(frozen=True)
class EosPadding:
    """End tokens added after a response; `count` is the argument of block and cap."""

    kind: Literal["block", "supervised", "masked", "single", "cap"]
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> "EosPadding":
        kind, _, count = text.partition(":")
        return cls(kind, int(count or 0))  # type: ignore[arg-type]  # the parameter's pattern holds it

    def fill_of(self, document: Encoded, eos_id: int) -> int:
        """End tokens added to a document independently of its batch."""
        if self.kind == "block":
            return -response_length(document) % self.count
        return int(self.kind == "single" and document.ids_L[-1] != eos_id)

    def fill_in_batch(self, lengths: Sequence[int]) -> list[int]:
        """End tokens added to each document of a batch."""
        if self.kind == "supervised":
            return [max(lengths) - length for length in lengths]
        if self.kind == "cap":
            return [min(self.count, max(lengths) - length) for length in lengths]
        return [0] * len(lengths)


@dataclass
class Counts:
    """Numbers of rows by what happened to them."""

    rows: int = 0
    documents: int = 0
    truncated: int = 0
    """Truncated to max_length."""
    filtered: int = 0
    """Dropped, longer than max_length."""
    without_response: int = 0
    """Dropped, since truncation would remove the complete response."""
    tokens: int = 0
    """Tokens of all documents."""


def documents_of(
    rows: Sequence[Encoded],
    *,
    max_length: int,
    truncation: Literal["filter", "right"],
    padding: EosPadding,
    eos_id: int,
) -> tuple[list[Encoded], list[int], Counts]:
    """The documents, the row number of each, and the counts."""
    counts = Counts(rows=len(rows))
    documents, origins = [], []
    for number, row in enumerate(rows):
        if document := _truncate(row, max_length, truncation, counts):
            documents.append(
                eos_append(document, min(padding.fill_of(document, eos_id), max_length - len(document.ids_L)), eos_id)
            )
            origins.append(number)
    counts.documents = len(documents)
    counts.tokens = sum(len(document.ids_L) for document in documents)
    return documents, origins, counts


def response_length(document: Encoded) -> int:
    """Tokens from the first response token to the end; 0 without a response."""
    learned = np.flatnonzero(document.roles_L >= Role.RESPONSE)
    return len(document.ids_L) - int(learned[0]) if len(learned) else 0


def eos_append(document: Encoded, count: int, eos_id: int) -> Encoded:
    """The document with `count` more end tokens."""
    if count <= 0:
        return document
    return Encoded(
        np.concatenate([document.ids_L, np.full(count, eos_id, np.int32)]),
        np.concatenate([document.roles_L, np.full(count, Role.FILL, np.uint8)]),
    )


def _truncate(row: Encoded, max_length: int, truncation: str, counts: Counts) -> Encoded | None:
    """The row at most `max_length` long, or None if it is dropped; updates `counts`."""
    too_long = len(row.ids_L) > max_length
    if too_long and truncation == "filter":
        counts.filtered += 1
        return None
    document = Encoded(row.ids_L[:max_length], row.roles_L[:max_length])
    if not response_length(document):
        counts.without_response += 1
        return None
    counts.truncated += too_long
    return document
