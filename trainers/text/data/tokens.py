"""Dialogues as token ids, made once per host and content, in as many processes as asked: the result is the same."""

import hashlib
import multiprocessing
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from foundation.atomic import file_mark_used, file_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import canonical_json
from trainers.text.data.chat import ChatTokenizer, Encoded, encode_chat, encode_plain
from trainers.text.data.dialogues import Dialogue

VERSION = 1
"""Of how texts become ids; another one leaves old caches alone."""
ROWS_PER_PROCESS = 8192
"""A process that would get fewer rows is not worth its start."""
FRESH = multiprocessing.get_context("spawn")
"""Not fork: by now this process has threads, and a lock that one of them holds would stay locked in the child."""


def dialogues_encode(
    chat_tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue], *, supervise_all: bool, num_proc: int, cache: Path
) -> list[Encoded]:
    """Ids and roles of every dialogue, in order; read from `cache/tokens` where they are there."""
    path = cache / "tokens" / f"{_digest(chat_tokenizer, dialogues, supervise_all)}.safetensors"
    found = _read(path)
    if found is None:
        found = encode_in_processes(chat_tokenizer, dialogues, supervise_all=supervise_all, num_proc=num_proc)
        _write(path, found)
    return found


def encode_in_processes(
    chat_tokenizer: ChatTokenizer,
    dialogues: Sequence[Dialogue],
    *,
    supervise_all: bool,
    num_proc: int,
    rows_per_process: int = ROWS_PER_PROCESS,
) -> list[Encoded]:
    """Splits the rows into equal runs, one for each process that is worth it.

    TrainerError OUT_OF_MEMORY: a process was killed, as the kernel does where memory ends.
    """
    count = min(num_proc, -(-len(dialogues) // rows_per_process))
    if count <= 1:
        return _encode(chat_tokenizer, dialogues, supervise_all)
    size = -(-len(dialogues) // count)
    parts = [dialogues[start : start + size] for start in range(0, len(dialogues), size)]
    try:
        with ProcessPoolExecutor(len(parts), mp_context=FRESH) as pool:
            found = list(pool.map(_encode, repeat(chat_tokenizer), parts, repeat(supervise_all)))
    except BrokenProcessPool as error:
        message = f"one of {len(parts)} processes that tokenized was killed; set num_proc to fewer"
        raise TrainerError(ReasonCode.OUT_OF_MEMORY, message) from error
    return [encoded for part in found for encoded in part]


def _encode(chat_tokenizer: ChatTokenizer, dialogues: Iterable[Dialogue], supervise_all: bool) -> list[Encoded]:
    return [
        encode_plain(chat_tokenizer, dialogue.turns[0].text)
        if dialogue.is_plain
        else encode_chat(chat_tokenizer, dialogue.turns, supervise_all=supervise_all)
        for dialogue in dialogues
    ]


def _digest(chat_tokenizer: ChatTokenizer, dialogues: Sequence[Dialogue], supervise_all: bool) -> str:
    digest = hashlib.sha256(chat_tokenizer.digest().encode())
    digest.update(canonical_json({"version": VERSION, "supervise_all": supervise_all}))
    for dialogue in dialogues:
        digest.update(canonical_json([list(turn) for turn in dialogue.turns]))
    return digest.hexdigest()


def _write(path: Path, rows: Sequence[Encoded]) -> None:
    flat = {
        "ids": np.concatenate([row.ids_L for row in rows]),
        "roles": np.concatenate([row.roles_L for row in rows]),
        "lengths": np.array([len(row.ids_L) for row in rows], np.int64),
    }
    file_write(path, lambda draft: save_file(flat, draft))


def _read(path: Path) -> list[Encoded] | None:
    try:
        flat: dict[str, NDArray[Any]] = load_file(path)
        file_mark_used(path)
        bounds = np.cumsum(flat["lengths"])[:-1]
        return [
            Encoded(*row) for row in zip(np.split(flat["ids"], bounds), np.split(flat["roles"], bounds), strict=True)
        ]
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None
