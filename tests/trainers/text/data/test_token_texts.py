"""The texts of single tokens join to the text, for every kind of tokenizer."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.tiny_tokenizers import KINDS
from trainers.methods.sample_text import infill_ids
from trainers.text.data.chat import Encoded, decoded, token_texts
from trainers.text.data.preview import token_records
from trainers.text.sampling.texts import Text, text_record

SENTENCE = "User: Jack has 42 pounds"


@pytest.fixture(scope="module", params=list(KINDS))
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]()


def ids_of(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def base_of(tokenizer: Any) -> Any:
    """The fields of a base that these functions use."""
    return SimpleNamespace(
        tokenizer=tokenizer,
        family="llama",
        mask_id=tokenizer.mask_token_id,
        eos_id=tokenizer.eos_token_id,
        bos_id=tokenizer.bos_token_id,
        shift=False,
        bos_first=False,
    )


def test_the_replay_keeps_its_spaces(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, SENTENCE)
    record = text_record(base_of(tokenizer), Text(tuple(ids), (-1,) * len(ids), tuple(ids), "", 0), {})
    shown = "".join(token["text"] for token in record["tokens"])
    assert shown == decoded(tokenizer, ids)
    assert shown.lower().replace("user :", "user:").strip() == SENTENCE.lower()


def test_the_token_preview_keeps_its_spaces(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, SENTENCE)
    document = Encoded(np.array(ids, np.int32), np.zeros(len(ids), np.uint8))
    noised: Any = SimpleNamespace(masked_L=np.zeros(len(ids), bool))
    tokens = token_records(base_of(tokenizer), document, noised)
    assert "".join(token["text"] for token in tokens) == decoded(tokenizer, ids)
    assert [token["id"] for token in tokens] == ids


@pytest.mark.parametrize(
    "text", ["", "a", "  two  blanks ", "naïve 🙂🙂 日本", "<s> the <mask> cat </s>", "big cat\n\ndog"]
)
def test_the_texts_of_the_tokens_join_to_the_text(tokenizer: Any, text: str) -> None:
    ids = ids_of(tokenizer, text)
    pieces = token_texts(tokenizer, ids)
    assert len(pieces) == len(ids)
    assert "".join(pieces) == decoded(tokenizer, ids)


@pytest.mark.parametrize("seed", range(5))
def test_random_ids_join_to_the_text(tokenizer: Any, seed: int) -> None:
    """Also broken characters, and texts of several windows."""
    ids = random.Random(seed).choices(range(len(tokenizer)), k=300)
    pieces = token_texts(tokenizer, ids)
    assert "".join(pieces) == decoded(tokenizer, ids)
    assert len(pieces[-1]) < 40  # nothing stuck until the end


def test_in_a_long_text_each_token_has_its_word(tokenizer: Any) -> None:
    ids = ids_of(tokenizer, "the big cat has " * 100)
    pieces = token_texts(tokenizer, ids)
    assert "".join(pieces) == decoded(tokenizer, ids)
    assert max(map(len, pieces)) <= 16


@pytest.mark.parametrize(
    ("text", "filling"),
    [("the [MASK] cat", " big"), ("[MASK] is big", "Jack"), ("the cat has[MASK]", " 42"), ("Jack [MASK], he", " is")],
)
def test_an_infilled_text_has_each_space_once(tokenizer: Any, text: str, filling: str) -> None:
    base = base_of(tokenizer)
    ids = infill_ids(base, text)[:-1]
    assert ids.count(base.mask_id) == 1
    expected = ids_of(tokenizer, text.replace(" [MASK]", "[MASK]").replace("[MASK]", filling))
    at = ids.index(base.mask_id)
    assert ids[:at] == expected[:at]
    assert ids[at + 1 :] == expected[len(expected) - (len(ids) - at - 1) :]
