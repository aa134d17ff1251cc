"""A corpus as an endless stream of packed sequences, whose position can be written down and taken up again.

Files follow each other in an order drawn for each epoch; within a file, windows of documents are shuffled and tokenized
together. Documents are joined with end-of-text tokens, and sequences are cut from that stream without padding. So a
position is a file, a document and a token; to take it up, at most one file is read again, and nothing but its
window is tokenized again.
"""

# L tokens of a sequence

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from formats.datasets.rows import row_fault, value_named
from trainers.core.noise import Purpose, integer, permutation, stream, uniform
from trainers.text.data.rows import bad_rows, file_rows

Ids = NDArray[np.int32]


@dataclass(frozen=True)
class Position:
    """The first token that no sequence holds yet."""

    epoch: int = 0
    file: int = 0
    """In the order of the epoch."""
    document: int = 0
    """Of the file, in the shuffled order."""
    token: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class PackedSequence:
    """Tokens cut from the stream, and where the documents in it end."""

    ids_L: Ids
    lengths: tuple[int, ...]
    """Of its pieces of documents, in order; their sum is L."""


@dataclass(frozen=True)
class Corpus:
    """What the stream is made of. Every process reads the same one."""

    files: Sequence[Path]
    """In the order of their names."""
    text_column: str
    tokenize: Callable[[Sequence[str]], list[list[int]]]
    eos_id: int
    seed: int
    window: int
    """Documents that are shuffled and tokenized together."""
    held_out: int = 0
    """First documents of the first file (by name), which the stream leaves out."""

    def sequences(self, start: Position, lengths: Iterator[int]) -> Iterator[tuple[PackedSequence, Position]]:
        """Sequences of the given lengths, each with the position after it. Raises TrainerError(BAD_DATASET)."""
        pieces = self._pieces(start)
        ids, position, end = next(pieces)
        for length in lengths:
            parts: list[Ids] = []
            missing = length
            while missing:
                if not len(ids):
                    ids, position, end = next(pieces)
                taken = ids[:missing]
                parts.append(taken)
                ids = ids[len(taken) :]
                missing -= len(taken)
                position = replace(position, token=position.token + len(taken)) if len(ids) else end
            yield PackedSequence(np.concatenate(parts), tuple(len(part) for part in parts)), position

    def held_out_texts(self) -> list[str]:
        """The documents that are left out of the stream."""
        return list(islice((text for path in self.files[:1] for text in self._texts(path)), self.held_out))

    def encode(self, texts: Sequence[str]) -> list[Ids]:
        """Ids of each text and its end-of-text token."""
        return [np.array([*ids, self.eos_id], np.int32) for ids in self.tokenize(texts)] if texts else []

    def _pieces(self, start: Position) -> Iterator[tuple[Ids, Position, Position]]:
        """The rest of the document at `start` and all documents after it: ids, their position, the next position."""
        epoch, first_file, document, token = start.epoch, start.file, start.document, start.token
        while True:
            is_whole_epoch, is_empty = not (first_file or document), True
            for file in range(first_file, len(self.files)):
                for number, ids in self._documents(epoch, file, document):
                    is_empty = False
                    at = Position(epoch, file, number, token)
                    yield ids[token:], at, Position(epoch, file, number + 1)
                    token = 0
                document = 0
            if is_empty and is_whole_epoch:
                raise bad_rows(
                    f"expected documents to train on, but the corpus has none beyond the {self.held_out} held out by "
                    "validation_documents; lower it, or add text"
                )
            epoch, first_file = epoch + 1, 0

    def _documents(self, epoch: int, file: int, start: int) -> Iterator[tuple[int, Ids]]:
        """The documents of a file from the `start`-th of its shuffled order, with their numbers in it."""
        order = permutation(len(self.files), self.seed, Purpose.FILE_ORDER, epoch)
        index = order[file]
        texts = self._texts(self.files[index])
        skipped = (self.held_out if index == 0 else 0) + start - start % self.window
        texts = islice(texts, skipped, None)
        number = start - start % self.window
        while window := list(islice(texts, self.window)):
            shuffled = stream(self.seed, Purpose.ORDER, epoch, index << 40 | number).permutation(len(window))
            first = max(0, start - number)
            for place, ids in enumerate(self.encode([window[at] for at in shuffled[first:]]), start=first):
                yield number + place, ids
            number += len(window)

    def _texts(self, path: Path) -> Iterator[str]:
        for row in file_rows(path, path.name):
            if fault := row_fault(row.columns):
                raise bad_rows(f"{row.where}: {fault}")
            text = row.columns.get(self.text_column)
            if not isinstance(text, str):
                raise bad_rows(
                    f"{row.where}: expected text under {self.text_column!r} (text_column), got {value_named(text)}"
                )
            yield text


def step_length(seed: int, step: int, length: int, short_share: float) -> int:
    """Tokens of the sequences of a step: `length`, or for a share of the steps a draw from 1/8 of it upwards."""
    if uniform(seed, Purpose.SHORT_LENGTH, step) >= short_share:
        return length
    shortest = max(1, length // 8)
    return shortest + integer(length - shortest, seed, Purpose.SHORT_LENGTH, step, position=1)
