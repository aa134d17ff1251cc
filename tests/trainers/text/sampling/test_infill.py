"""Texts with gaps: their ids, and that only the gaps are filled."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from tests.tiny_text import BUILDERS
from trainers.methods.sample_text import infill_ids
from trainers.text.models.load import load_text


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {family: BUILDERS[family](root / family) for family in ("dream", "llama")}


def test_a_text_with_gaps_begins_as_a_training_on_texts_does(folders: dict[str, Path]) -> None:
    """With Dream's shift the first token is predicted at a BOS, for want of one at an end token."""
    base = load_text(folders["dream"], torch.float32)
    assert infill_ids(base, "[MASK] cat")[:2] == [base.bos_id, base.mask_id]
    assert infill_ids(replace(base, bos_id=None), "[MASK] cat")[:2] == [base.eos_id, base.mask_id]
    assert infill_ids(replace(base, shift=False), "[MASK] cat")[0] == base.mask_id


def test_a_space_before_a_gap_stays_where_it_is_a_token(folders: dict[str, Path]) -> None:
    base = load_text(folders["dream"], torch.float32)
    ids = infill_ids(base, "cat [MASK] dog")
    assert base.tokenizer.decode([i for i in ids[1:-1] if i != base.mask_id]) == "cat  dog"


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["gpt2", "qwen3-0.6b", "bert-base-uncased"])
def test_a_gap_of_a_real_tokenizer_takes_the_space_that_its_word_carries(
    shared_data: Path, folders: dict[str, Path], name: str
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / name)
    base = replace(load_text(folders["llama"], torch.float32), tokenizer=tokenizer, mask_id=-1)
    ids = infill_ids(base, "the [MASK] cat")[:-1]
    first, _, last = tokenizer("the big cat", add_special_tokens=False).input_ids
    assert ids == [first, -1, last]
