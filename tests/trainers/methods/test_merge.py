"""The job `merge` on text models, and what becomes of its product."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from formats.models.text_configs import FAMILIES as DESCRIBED
from tests.tiny_text import BUILDERS, build_tiny_llama
from tests.tolerance import assert_near
from tests.trainers.text.job import save_adaptor, workspace
from trainers.contract.errors import TrainerError
from trainers.methods.merge import merge
from trainers.text.adaptors.lora import text_adaptor_load
from trainers.text.models.base import hidden_padded, logits
from trainers.text.models.families import FAMILIES
from trainers.text.models.load import load_text
from trainers.text.models.weights import save_text

pytestmark = pytest.mark.numeric


def answers(base: Any) -> torch.Tensor:
    with torch.no_grad():
        return logits(base, hidden_padded(base, torch.tensor([[5, base.mask_id, 6, 7]])))


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "qwen3"])
def test_a_merged_model_answers_as_base_and_adaptor_at_its_scale(tmp_path: Path, family: str) -> None:
    folder = BUILDERS[family](tmp_path / "base")
    product = save_adaptor(folder, tmp_path / "product", mask_row=family == "qwen3")
    work = workspace(tmp_path / "job", "merge", folder, adaptors=[product], name="fused", scales=[0.5])
    assert merge(work) == "succeeded"
    expected = load_text(folder, torch.float32)
    text_adaptor_load(expected, product / "adaptor", "one", 0.5)
    fused = load_text(work.out / "model", torch.float32)
    assert_near(answers(fused), answers(expected))
    assert work.facts["family"] == fused.family == family and not fused.was_causal
    assert (work.out / "model" / "original").is_dir() == (family in ("llada", "dream"))


def test_a_grown_vocabulary_and_the_shift_survive(tmp_path: Path) -> None:
    folder = build_tiny_llama(tmp_path / "base", spare_rows=0, tied=True)
    product = save_adaptor(folder, tmp_path / "product", mask_row=True, training_method="dream")
    work = workspace(tmp_path / "job", "merge", folder, adaptors=[product], name="fused")
    assert merge(work) == "succeeded"
    fused = load_text(work.out / "model", torch.float32)
    assert fused.shift and fused.mask_id == 264 and fused.vocab_size == 265
    assert fused.tokenizer.mask_token_id == 264
    row = load_file(product / "adaptor" / "adapter_model.safetensors")
    (trained,) = (value for key, value in row.items() if "trainable_tokens" in key)
    torch.testing.assert_close(fused.model.get_input_embeddings().weight[264], trained[0])


def test_the_file_keeps_the_bases_dtype(tmp_path: Path) -> None:
    folder = BUILDERS["llada"](tmp_path / "base")
    save_text(load_text(folder, torch.float32), tmp_path / "half", dtype=torch.bfloat16)
    product = save_adaptor(tmp_path / "half", tmp_path / "product")
    work = workspace(tmp_path / "job", "merge", tmp_path / "half", adaptors=[product], name="fused")
    assert merge(work) == "succeeded"
    tensors = load_file(work.out / "model" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert json.loads((work.out / "model" / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_adaptor_of_another_base_is_refused(tmp_path: Path) -> None:
    folder = BUILDERS["llada"](tmp_path / "base")
    product = save_adaptor(folder, tmp_path / "product", base_sha256="12" * 32)
    work = workspace(tmp_path / "job", "merge", folder, adaptors=[product], name="fused")
    with pytest.raises(TrainerError, match="was trained on the base model 121212121212"):
        merge(work)
    assert not (work.out / "model").exists()


def test_formats_describes_the_families_that_are_loaded() -> None:
    assert [*DESCRIBED] == [*FAMILIES]
