"""Tokenizers that no library can bear become refusals of the base model, not internal errors."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.tiny_text import build_tiny_llama
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.model_files import is_panic
from trainers.job import reason_of
from trainers.text.models.load import load_tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_tiny_llama(tmp_path / "llama")


def refusal(folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        load_tokens(folder)
    assert caught.value.reason.code == ReasonCode.BAD_BASE_MODEL
    return caught.value.reason.message


def pattern_write(folder: Path, pattern: str) -> None:
    content: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = split
    (folder / "tokenizer.json").write_text(json.dumps(content))


def test_100000_nested_brackets_are_a_bad_base_model(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("[" * 100_000)
    assert refusal(folder) == "tokenizer.json: nested too deeply; expected at most 64 levels"


def test_a_pattern_that_does_not_compile_is_a_bad_base_model(folder: Path) -> None:
    pattern_write(folder, "(a")
    assert "the tokenizer cannot be read as" in refusal(folder)


@pytest.mark.parametrize("pattern", ["((a{1000}){1000}){1000}", "a" * 5000])
def test_a_pattern_that_needs_gigabytes_is_a_bad_base_model(folder: Path, pattern: str) -> None:
    pattern_write(folder, pattern)
    assert "expected a pattern of at most 4096 characters whose counts" in refusal(folder)


def test_a_pattern_that_backtracks_for_ever_is_a_bad_base_model(folder: Path) -> None:
    """The library panics, by an exception that is no Exception; trainers.run says whose fault it is."""
    pattern_write(folder, "(a|aa)+$")
    tokenizer = load_tokens(folder).tokenizer
    with pytest.raises(BaseException) as caught:  # its class cannot be imported
        tokenizer("a" * 40 + "!" + "x" * 50)
    assert is_panic(caught.value) and not isinstance(caught.value, Exception)
    reason = reason_of(caught.value)
    assert reason.code == ReasonCode.BAD_BASE_MODEL
    assert reason.message.startswith("a regular expression of the base model's tokenizer gave up on a text: ")


def test_the_patterns_of_published_tokenizers_pass(folder: Path) -> None:
    for pattern in (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    ):
        pattern_write(folder, pattern)
        assert isinstance(load_tokens(folder).tokenizer.backend_tokenizer, Tokenizer)
