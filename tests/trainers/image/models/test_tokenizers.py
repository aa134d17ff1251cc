"""Real tokenizers of CLIP and T5."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainers.contract.errors import TrainerError
from trainers.image.models.families import load_base
from trainers.image.models.text_encoders import clip_ids, clip_tokenizer, t5_ids, t5_tokenizer

TEXTS = ["", "a photo of a cat", "Ein Café in 日本, 🐕!", "word " * 74, "word " * 75]


def copied(source: Path, folder: Path, *, without: str = "", **changes: Any) -> Path:
    """A copy of a tokenizer's folder as `folder/tokenizer`, `changes` in its config."""
    copy = Path(shutil.copytree(source, folder / "tokenizer"))
    config = json.loads((copy / "tokenizer_config.json").read_text()) | changes
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    if without:
        (copy / without).unlink()
    return folder


@pytest.mark.acceptance
@pytest.mark.parametrize("pad_token", ["<|endoftext|>", "!"])
def test_one_chunk_of_clip_is_what_its_tokenizer_makes(pad_token: str, shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "tokenizers" / "clip-vit-large-patch14"
    tokenizer: Any = clip_tokenizer(copied(source, tmp_path, pad_token=pad_token))
    for text in TEXTS:
        expected = tokenizer(text, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        assert torch.equal(clip_ids(tokenizer, text), expected)
    assert clip_ids(tokenizer, "a photo of a cat")[0, :7].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407]


@pytest.mark.acceptance
def test_a_long_text_goes_on_in_the_next_chunk(shared_data: Path, tmp_path: Path) -> None:
    tokenizer: Any = clip_tokenizer(copied(shared_data / "tokenizers" / "clip-vit-large-patch14", tmp_path))
    text = " ".join(f"{index} cats" for index in range(60))
    tokens = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    ids = clip_ids(tokenizer, text)
    assert len(tokens) > 75 and len(ids) == -(-len(tokens) // 75)
    inner = [token for chunk in ids.tolist() for token in chunk[1:-1]]
    assert inner[: len(tokens)] == tokens
    assert all(chunk[0] == 49406 and chunk[-1] == 49407 for chunk in ids.tolist())


@pytest.mark.acceptance
def test_t5_reads_the_same_with_and_without_its_fast_file(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "tokenizers" / "t5-v1_1"
    fast: Any = t5_tokenizer(copied(source, tmp_path / "fast", without="spiece.model"), "tokenizer")
    slow: Any = t5_tokenizer(copied(source, tmp_path / "slow", without="tokenizer.json"), "tokenizer")
    for text in TEXTS:
        assert torch.equal(t5_ids(fast, text, 64), t5_ids(slow, text, 64))
    assert t5_ids(slow, "a dog", 6).tolist()[-3:] == [1, 0, 0]


def test_a_t5_tokenizer_without_any_vocabulary_is_refused(tiny_base: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_base("flux"), tmp_path / "flux"))
    (folder / "tokenizer_2" / "tokenizer.json").unlink()
    with pytest.raises(
        TrainerError, match=r"expected tokenizer_2/tokenizer\.json or tokenizer_2/spiece\.model, found neither"
    ):
        load_base(folder, torch.float32)
