"""Chats as tokens: each family's format, text that stays text, prompts that are prefixes."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from formats.datasets.chats import Turn
from trainers.text.data.chat import Role, chat_tokenizer_of, encode_chat, encode_plain, prompt_ids
from trainers.text.models.base import TextBase
from trainers.text.models.load import load_text

TURNS = [Turn("user", "a cat"), Turn("assistant", "is"), Turn("user", "the"), Turn("assistant", "dog")]
FORMATS = {
    "llada": (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\na cat<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nis<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nthe<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\ndog<|eot_id|>"
    ),
    "dream": (
        "<|im_start|>user\na cat<|im_end|>\n<|im_start|>assistant\nis<|im_end|>\n"
        "<|im_start|>user\nthe<|im_end|>\n<|im_start|>assistant\ndog<|im_end|>"
    ),
    "bert": "[CLS][Question] a cat [/Question] [Answer] is[SEP][Question] the [/Question] [Answer] dog[SEP]",
    "llama": "User: a cat\nAssistant: is</s>\nUser: the\nAssistant: dog</s>",
}
SPECIALS = {"llada": "<|mdm_mask|>", "dream": "<|im_end|>", "bert": "[MASK]", "llama": "</s>", "modernbert": "[SEP]"}


@pytest.fixture(scope="module")
def base_of(tiny_text: Callable[[str], Path]) -> Callable[[str], TextBase]:
    bases: dict[str, TextBase] = {}

    def make(family: str) -> TextBase:
        if family not in bases:
            bases[family] = load_text(tiny_text(family), torch.float32)
        return bases[family]

    return make


def spelled(base: TextBase, ids: list[int]) -> str:
    text: str = base.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text.replace(" ", "") if base.family == "bert" else text


@pytest.mark.parametrize("family", FORMATS)
def test_each_family_has_its_own_format(family: str, base_of: Callable[[str], TextBase]) -> None:
    base = base_of(family)
    encoded = encode_chat(chat_tokenizer_of(base), TURNS, supervise_all=False)
    expected = FORMATS[family].lower().replace(" ", "") if family == "bert" else FORMATS[family]
    assert spelled(base, encoded.ids_L.tolist()).replace("[CLS]", "[cls]").replace("[SEP]", "[sep]") == expected


def test_a_causal_base_uses_chatml_if_its_vocabulary_has_the_tokens(base_of: Callable[[str], TextBase]) -> None:
    assert chat_tokenizer_of(base_of("qwen3")).format.name == "chatml"
    assert chat_tokenizer_of(base_of("llama")).format.name == "plain"


@pytest.mark.parametrize("family", SPECIALS)
def test_text_that_spells_a_special_token_stays_text(family: str, base_of: Callable[[str], TextBase]) -> None:
    base, literal = base_of(family), SPECIALS[family]
    special = base.tokenizer.convert_tokens_to_ids(literal)
    turns = [Turn("user", f"a {literal} cat"), Turn("assistant", f"{literal}dog")]
    encoded = encode_chat(chat_tokenizer_of(base), turns, supervise_all=False)
    plain = encode_chat(chat_tokenizer_of(base), [Turn("user", "a cat"), Turn("assistant", "dog")], supervise_all=False)
    assert (encoded.ids_L == special).sum() == (plain.ids_L == special).sum()
    assert literal.lower().replace(" ", "") in spelled(base, encoded.ids_L.tolist()).lower().replace(" ", "")
    assert special not in encode_plain(chat_tokenizer_of(base), f"a{literal}").ids_L[1:-1]


@pytest.mark.parametrize("family", FORMATS)
def test_the_prompt_is_a_prefix_of_the_row(family: str, base_of: Callable[[str], TextBase]) -> None:
    base = base_of(family)
    for count in (2, 4):
        row = encode_chat(chat_tokenizer_of(base), TURNS[:count], supervise_all=False)
        messages = [{"role": speaker, "content": text} for speaker, text in TURNS[: count - 1]]
        prompt = prompt_ids(base, messages)
        assert row.ids_L[: len(prompt)].tolist() == prompt
        assert row.roles_L[len(prompt)] == Role.RESPONSE
        assert not (row.roles_L[: len(prompt)] == Role.RESPONSE).any()


def test_a_text_prompt_is_a_user_turn(base_of: Callable[[str], TextBase]) -> None:
    base = base_of("llada")
    assert prompt_ids(base, "a cat") == prompt_ids(base, [{"role": "user", "content": "a cat"}])


def test_a_prompt_must_end_with_a_user_turn(base_of: Callable[[str], TextBase]) -> None:
    with pytest.raises(ValueError, match="expected the last turn to be the user's"):
        prompt_ids(base_of("llada"), [{"role": speaker, "content": text} for speaker, text in TURNS])


@pytest.mark.parametrize(("supervise_all", "learned"), [(False, "dog<|eot_id|>"), (True, "is<|eot_id|>dog<|eot_id|>")])
def test_the_last_answer_or_every_answer_is_learned(
    supervise_all: bool, learned: str, base_of: Callable[[str], TextBase]
) -> None:
    base = base_of("llada")
    encoded = encode_chat(chat_tokenizer_of(base), TURNS, supervise_all=supervise_all)
    assert spelled(base, encoded.ids_L[encoded.roles_L == Role.RESPONSE].tolist()) == learned


def test_a_plain_text_is_learned_with_its_end_token(base_of: Callable[[str], TextBase]) -> None:
    llada = encode_plain(chat_tokenizer_of(base_of("llada")), "a cat")
    assert spelled(base_of("llada"), llada.ids_L.tolist()) == "a cat<|endoftext|>"
    assert set(llada.roles_L) == {Role.RESPONSE}
    bert = encode_plain(chat_tokenizer_of(base_of("bert")), "a cat")
    assert bert.roles_L.tolist() == [Role.SPECIAL, *[Role.RESPONSE] * (len(bert.ids_L) - 1)]
