"""Encoding gives the same bits by any number of threads and in any batches, and is done once."""

import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from formats.datasets.chats import Turn
from tests.tiny_tokenizers import KINDS
from trainers.text.data import dataset
from trainers.text.data.chat import PLAIN, ChatTokenizer, Encoded, chat_tokenizer_of, encode_chat, encode_plain
from trainers.text.data.dataset import dialogues_encode, encode_in_threads
from trainers.text.data.rows import Dialogue
from trainers.text.models.load import load_tokens

DIALOGUES = [
    Dialogue(f"row {index}", (Turn("user", f"the {index}"), Turn("assistant", f"on {index * 7}"))) for index in range(9)
]


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_text: Callable[[str], Path]) -> ChatTokenizer:
    return chat_tokenizer_of(load_tokens(tiny_text("llada")))


def plain_encoding(chat_tokenizer: ChatTokenizer, dialogue: Dialogue, *, supervise_all: bool) -> Encoded:
    """One text at a time, each template tokenized anew."""
    fresh = replace(chat_tokenizer)
    if dialogue.is_plain:
        return encode_plain(fresh, dialogue.turns[0].text)
    return encode_chat(fresh, dialogue.turns, supervise_all=supervise_all)


def bits(rows: Sequence[Encoded]) -> list[tuple[bytes, bytes]]:
    assert all((row.ids_L.dtype, row.roles_L.dtype) == (np.int32, np.uint8) for row in rows)
    return [(row.ids_L.tobytes(), row.roles_L.tobytes()) for row in rows]


def hard_dialogues(specials: Sequence[str]) -> list[Dialogue]:
    """Chats and plain texts of repeated, empty, blank, long and unusual texts, and texts that spell special tokens."""
    draws = random.Random(0)
    texts = [
        "the cat",
        "",
        " ",
        "a\n\nb ",
        "caf\u00e9 \U0001f408",
        "the cat " * 300,
        *(f"a {token} b" for token in specials),
    ]
    rows = []
    for index in range(60):
        chat = [Turn("user", draws.choice(texts)), Turn("assistant", draws.choice(texts))] * draws.randint(1, 3)
        system = [Turn("system", draws.choice(texts))] * draws.randint(0, 1)
        rows.append(Dialogue(f"row {index}", (Turn("", draws.choice(texts)),) if index % 4 == 0 else (*system, *chat)))
    return rows


@pytest.mark.parametrize("supervise_all", [False, True])
@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert", "llama", "qwen3"])
def test_rows_tokenized_in_batches_equal_the_plain_way_bit_for_bit(
    family: str, supervise_all: bool, tiny_text: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "ROWS_PER_CALL", 7)
    chat_tokenizer = chat_tokenizer_of(load_tokens(tiny_text(family)))
    rows = hard_dialogues([*chat_tokenizer.format.needs, *chat_tokenizer.tokenizer.all_special_tokens])
    plain = [plain_encoding(chat_tokenizer, row, supervise_all=supervise_all) for row in rows]
    for num_threads in (1, 3):
        batched = encode_in_threads(chat_tokenizer, rows, supervise_all=supervise_all, num_threads=num_threads)
        assert bits(batched) == bits(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_tokenizer_gives_the_same_ids_in_batches(kind: str) -> None:
    tokenizer = KINDS[kind]()
    chat_tokenizer = ChatTokenizer(tokenizer, PLAIN, eos_id=2, bos_id=None, begins_plain=False)
    rows = hard_dialogues(tokenizer.all_special_tokens)
    plain = [plain_encoding(chat_tokenizer, row, supervise_all=False) for row in rows]
    assert bits(encode_in_threads(chat_tokenizer, rows, supervise_all=False, num_threads=2)) == bits(plain)


def test_templates_are_tokenized_once_and_texts_in_calls_of_many_rows(
    chat_tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    class Counting:
        is_fast = True

        def __call__(self, text: object, **options: object) -> object:
            calls.append(text)
            return chat_tokenizer.tokenizer(text, **options)

    monkeypatch.setattr(dataset, "ROWS_PER_CALL", 4)
    counted = replace(chat_tokenizer, tokenizer=Counting())
    encode_in_threads(counted, DIALOGUES, supervise_all=False, num_threads=1)
    form = chat_tokenizer.format
    templates = {form.begin, *form.heads.values(), *form.tails.values(), form.between} - {""}
    single, batches = [c for c in calls if isinstance(c, str)], [c for c in calls if isinstance(c, list)]
    assert sorted(single) == sorted([*templates, ""])
    assert [len(batch) for batch in batches] == [8, 8, 2]


def test_threads_are_limited_by_num_proc(chat_tokenizer: ChatTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def pool(count: int) -> ThreadPoolExecutor:
        started.append(count)
        assert os.environ["TOKENIZERS_PARALLELISM"] == "false"
        return ThreadPoolExecutor(count)

    monkeypatch.setattr(dataset, "ThreadPoolExecutor", pool)
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    encode_in_threads(chat_tokenizer, DIALOGUES, supervise_all=False, num_threads=3)
    assert started == [3]
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_the_cache_is_read_and_rebuilt_if_damaged(
    chat_tokenizer: ChatTokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ids() -> list[list[int]]:
        encoded = dialogues_encode(chat_tokenizer, DIALOGUES, supervise_all=False, num_threads=1, cache=tmp_path)
        return [row.ids_L.tolist() for row in encoded]

    first = ids()
    (path,) = (tmp_path / "tokens").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(dataset, "encode_in_threads", None)
        assert ids() == first
    path.write_bytes(b"torn")
    assert ids() == first


def test_the_cache_key_covers_everything_that_changes_the_ids(chat_tokenizer: ChatTokenizer, tmp_path: Path) -> None:
    for dialogues, supervise_all in ((DIALOGUES, False), (DIALOGUES, True), (DIALOGUES[:5], False)):
        dialogues_encode(chat_tokenizer, dialogues, supervise_all=supervise_all, num_threads=1, cache=tmp_path)
    assert len(list((tmp_path / "tokens").iterdir())) == 3
