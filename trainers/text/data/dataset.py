"""The dataset of a `masked_text` job: reads rows, encodes them (cached by content), truncates and splits."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from foundation.atomic import file_mark_used, file_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.spec import canonical_json
from trainers.core.context import JobContext
from trainers.core.noise import split
from trainers.text.data.chat import ChatTokenizer, Encoded, Role, chat_tokenizer_of, encode_rows
from trainers.text.data.rows import Dialogue, bad_rows, dialogues_of, rows_read, split_counts
from trainers.text.models.base import TextBase

FEWEST_ROWS = 10
"""With fewer rows nothing is held out."""
USUAL_LENGTH = 1024
VERSION = 1
"""Version of the encoding, part of the cache key."""
ROWS_PER_CALL = 1024
"""Rows that a thread tokenizes at a time."""
PARALLELISM = "TOKENIZERS_PARALLELISM"


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


@dataclass(frozen=True)
class TextDataset:
    documents: Sequence[Encoded]
    places: Sequence[str]
    """File and line of each document, for display."""
    trained: Sequence[int]
    held_out: Sequence[int]
    counts: Counts
    chat_format: str
    splits: dict[str, Any]
    """The split that was read and the rows of each split; empty without splits."""

    def facts(self) -> dict[str, object]:
        """Counts for the manifest."""
        return {**asdict(self.counts), "held_out": len(self.held_out), "chat_format": self.chat_format, **self.splits}


def dataset_read(job: JobContext[MaskedTextParams], base: TextBase) -> TextDataset:
    """Rank 0 encodes and fills the cache, then all ranks read it.

    Raises TrainerError(BAD_DATASET) for an invalid row or if no document is left.
    """
    dialogues = dialogues_of(
        rows_read(job.dataset, job.params.split_of),
        input_template=job.params.input_template,
        output_template=job.params.output_template,
    )
    rows = _encode(job, base, dialogues) if job.processes.rank == 0 else []
    job.processes.barrier()
    rows = rows or _encode(job, base, dialogues)
    padding = EosPadding.parse(job.params.eos_padding)
    documents, origins, counts = documents_of(
        rows,
        max_length=max_length_of(job.params, base),
        truncation=job.params.truncation,
        padding=padding,
        eos_id=base.eos_id,
    )
    _report_counts(job, counts)
    trained, held_out = _split(job, len(documents))
    places = [dialogues[row].where for row in origins]
    splits = split_counts(job.dataset, job.params.split_of)
    return TextDataset(documents, places, trained, held_out, counts, chat_tokenizer_of(base).format.name, splits)


def max_length_of(params: MaskedTextParams, base: TextBase) -> int:
    """Maximum tokens of a document; leaves a position for the BOS that Dream may prepend."""
    if params.max_length is not None and params.max_length > base.max_positions:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"max_length={params.max_length} is more than the {base.max_positions} positions of the base model",
        )
    length = params.max_length or min(USUAL_LENGTH, base.max_positions)
    return length - int(length == base.max_positions and params.training_method == "dream")


def _encode(job: JobContext[MaskedTextParams], base: TextBase, dialogues: Sequence[Dialogue]) -> list[Encoded]:
    return dialogues_encode(
        chat_tokenizer_of(base),
        dialogues,
        supervise_all=job.params.supervise_turns == "all",
        num_threads=job.params.num_proc,
        cache=job.cache,
    )


def _split(job: JobContext[MaskedTextParams], count: int) -> tuple[list[int], list[int]]:
    share = job.params.validation_split if job.params.evaluates else 0.0
    if share and count < FEWEST_ROWS:
        _warn(job, f"{count} rows are fewer than {FEWEST_ROWS}, so none is held out and there is no validation")
        share = 0.0
    if share:
        share = min(share, job.params.max_validation_rows / count)
    return split(count, share, job.params.seed)


def _report_counts(job: JobContext[MaskedTextParams], counts: Counts) -> None:
    dropped = counts.filtered + counts.without_response
    if not counts.documents:
        raise bad_rows(
            f"none of {counts.rows} rows is left: {counts.filtered} are longer than max_length, "
            f"{counts.without_response} would lose their response at max_length"
        )
    if counts.truncated or dropped:
        _warn(
            job,
            f"of {counts.rows} rows {counts.truncated} were cut at max_length, {counts.filtered} dropped for being "
            f"longer, {counts.without_response} dropped since nothing of their response was left",
        )


def _warn(job: JobContext[MaskedTextParams], message: str) -> None:
    job.reporter.emit(Warning_(message=message))


def dialogues_encode(
    chat_tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue], *, supervise_all: bool, num_threads: int, cache: Path
) -> list[Encoded]:
    """Ids and roles of every dialogue, in order, from `cache/tokens` if present."""
    path = cache / "tokens" / f"{_digest(chat_tokenizer, dialogues, supervise_all)}.safetensors"
    encoded = _cache_read(path)
    if encoded is None:
        encoded = encode_in_threads(chat_tokenizer, dialogues, supervise_all=supervise_all, num_threads=num_threads)
        _cache_write(path, encoded)
    return encoded


def encode_in_threads(
    chat_tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue], *, supervise_all: bool, num_threads: int
) -> list[Encoded]:
    """Ids and roles of every dialogue, in order. The tokenizer releases the interpreter while it works."""
    chat_tokenizer.prepare_threads()
    parts = [dialogues[start : start + ROWS_PER_CALL] for start in range(0, len(dialogues), ROWS_PER_CALL)]

    def encode(part: Sequence[Dialogue]) -> list[Encoded]:
        return encode_rows(chat_tokenizer, [dialogue.turns for dialogue in part], supervise_all=supervise_all)

    with _serial_tokenizers(), ThreadPoolExecutor(num_threads) as pool:
        return [encoded for part in pool.map(encode, parts) for encoded in part]


@contextmanager
def _serial_tokenizers() -> Iterator[None]:
    """Keeps the tokenizers library from starting threads of its own, one per core."""
    before = os.environ.get(PARALLELISM)
    os.environ[PARALLELISM] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PARALLELISM]
        else:
            os.environ[PARALLELISM] = before


def _digest(chat_tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue], supervise_all: bool) -> str:
    digest = hashlib.sha256(chat_tokenizer.digest().encode())
    digest.update(canonical_json({"version": VERSION, "supervise_all": supervise_all}))
    for dialogue in dialogues:
        digest.update(canonical_json([list(turn) for turn in dialogue.turns]))
    return digest.hexdigest()


def _cache_write(path: Path, rows: Sequence[Encoded]) -> None:
    flat = {
        "ids": np.concatenate([row.ids_L for row in rows]),
        "roles": np.concatenate([row.roles_L for row in rows]),
        "lengths": np.array([len(row.ids_L) for row in rows], np.int64),
    }
    file_write(path, lambda draft: save_file(flat, draft))


def _cache_read(path: Path) -> list[Encoded] | None:
    try:
        flat: dict[str, NDArray[Any]] = load_file(path)
        file_mark_used(path)
        bounds = np.cumsum(flat["lengths"])[:-1]
        return [
            Encoded(*row) for row in zip(np.split(flat["ids"], bounds), np.split(flat["roles"], bounds), strict=True)
        ]
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None


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
