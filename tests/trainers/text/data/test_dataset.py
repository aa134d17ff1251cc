"""Encoding is the same in any number of processes, and done once."""

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from formats.chats import Turn
from trainers.contract.errors import TrainerError
from trainers.text.data import dataset
from trainers.text.data.chat import ChatTokenizer, chat_tokenizer_of
from trainers.text.data.dataset import dialogues_encode, encode_in_processes
from trainers.text.data.rows import Dialogue
from trainers.text.models.load import load_text

DIALOGUES = [
    Dialogue(f"row {index}", (Turn("user", f"the {index}"), Turn("assistant", f"on {index * 7}"))) for index in range(9)
]


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_text: Callable[[str], Path]) -> ChatTokenizer:
    return chat_tokenizer_of(load_text(tiny_text("llada"), torch.float32))


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_ids(chat_tokenizer: ChatTokenizer) -> None:
    one = encode_in_processes(chat_tokenizer, DIALOGUES, supervise_all=False, num_proc=1)
    two = encode_in_processes(chat_tokenizer, DIALOGUES, supervise_all=False, num_proc=2, rows_per_process=5)
    assert [row.ids_L.tolist() for row in one] == [row.ids_L.tolist() for row in two]
    assert [row.roles_L.tolist() for row in one] == [row.roles_L.tolist() for row in two]


def test_processes_are_limited_by_num_proc_and_rows_per_process(
    chat_tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []

    def pool(count: int, **_: object) -> ThreadPoolExecutor:
        started.append(count)
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(dataset, "ProcessPoolExecutor", pool)
    for num_proc, rows_per_process in ((3, 1), (2, 1), (4, 3), (4, 100)):
        encode_in_processes(
            chat_tokenizer, DIALOGUES, supervise_all=False, num_proc=num_proc, rows_per_process=rows_per_process
        )
    assert started == [3, 2, 3]


class Killed:
    """Stands for a tokenizer whose process the kernel ends."""

    def __call__(self, *_: object, **__: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_process_fails_the_job_with_a_reason(chat_tokenizer: ChatTokenizer) -> None:
    deadly = replace(chat_tokenizer, tokenizer=Killed())
    with pytest.raises(TrainerError, match=r"one of 2 processes that tokenized was killed; set num_proc to fewer"):
        encode_in_processes(deadly, DIALOGUES, supervise_all=False, num_proc=2, rows_per_process=5)


def test_the_cache_is_read_and_rebuilt_if_damaged(
    chat_tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids() -> list[list[int]]:
        encoded = dialogues_encode(chat_tokenizer, DIALOGUES, supervise_all=False, num_proc=1, cache=tmp_path)
        return [row.ids_L.tolist() for row in encoded]

    first = ids()
    (path,) = (tmp_path / "tokens").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "encode_in_processes", None)
        assert ids() == first
    path.write_bytes(b"torn")
    assert ids() == first


def test_the_cache_key_covers_everything_that_changes_the_ids(chat_tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    for dialogues, supervise_all in ((DIALOGUES, False), (DIALOGUES, True), (DIALOGUES[:5], False)):
        dialogues_encode(chat_tokenizer, dialogues, supervise_all=supervise_all, num_proc=1, cache=tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 3
