"""The example of text: what its scripts write, and what the committed base can do."""

import json
from pathlib import Path

import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from examples.sums.rows import pairs, rows_write, sets
from examples.sums.start import new_tokenizer
from examples.sums.words import VOCABULARY, in_words, number_in
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.text.data.chat import prompt_ids
from trainers.text.models.load import load_text
from trainers.text.sampling.texts import Decoding, answers_sample

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "sums"
MAX_BYTES = 3_000_000
ASKED = 64


@given(st.integers(0, 999))
def test_a_number_in_words_is_read_back(number: int) -> None:
    assert number_in(in_words(number)) == number
    assert number_in(f"the sum is {in_words(number)}") == number


def test_no_sum_is_both_trained_and_unseen() -> None:
    trained, unseen = pairs()
    assert len({*trained, *unseen}) == len(trained) + len(unseen) == 90 * 90
    questions = {name: {row["prompt"] for row in rows} for name, rows in sets().items()}
    assert questions["polite"] < questions["base"]
    assert not questions["unseen"] & questions["base"] and questions["unseen"] == questions["polite_unseen"]


def test_the_committed_rows_are_what_the_script_writes(tmp_path: Path) -> None:
    rows_write(tmp_path)
    for name in ("polite", "unseen", "polite_unseen"):
        assert (FOLDER / name / "rows.jsonl").read_bytes() == (tmp_path / name / "rows.jsonl").read_bytes()


def test_each_word_is_one_token_and_any_text_comes_back() -> None:
    tokenizer = new_tokenizer()
    for word in (*VOCABULARY[1:], "plus", "the", "sum", "is"):
        assert len(tokenizer(word).input_ids) == 1, word
    text = "Was ist 47 + 38, <|eot_id|>?"
    assert tokenizer.decode(tokenizer(text, split_special_tokens=True).input_ids).strip() == text


def test_the_base_is_small() -> None:
    assert sum(path.stat().st_size for path in (FOLDER / "base").iterdir()) <= MAX_BYTES


def test_the_base_answers_sums_that_it_has_never_seen() -> None:
    base = load_text(FOLDER / "base", torch.float32)
    rows = [json.loads(line) for line in (FOLDER / "unseen" / "rows.jsonl").read_text().splitlines()[:ASKED]]
    prompts = [prompt_ids(base, row["prompt"]) for row in rows]
    result = answers_sample(base, prompts, Decoding(max_new_tokens=8, block_size=8), list(range(ASKED)))
    right = sum(text.text.strip() == row["completion"] for text, row in zip(result, rows, strict=True))
    assert right >= 0.9 * ASKED


def test_the_template_is_valid() -> None:
    template = yaml.safe_load((FOLDER / "template.yaml").read_text())
    assert MaskedTextParams.model_validate(template["params"]).lora
