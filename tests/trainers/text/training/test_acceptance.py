"""Real data: GSM8K and chats through the real tokenizers on tiny networks, hostile files, a real Llama turned round."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from tests.tiny_text import HEADS, INNER, LAYERS, WIDTH, checkpoint_write, llada_tensors, model_write
from tests.trainers.text.job import TextJob

pytestmark = pytest.mark.acceptance

QUICK: dict[str, Any] = {"train_steps": 2, "batch_size": 2, "max_length": 192, "validation_split": 0.0}
GSM8K_ROWS, CHATS = 40, 20


def real_base(shared_data: Path, folder: Path, family: str) -> Path:
    """A tiny network of the family's class under a real tokenizer: BERT's, GPT-2's, Qwen3's."""
    name = {"bert": "bert-base-uncased", "modernbert": "gpt2"}.get(family, "qwen3-0.6b")
    folder.mkdir()
    for path in (shared_data / "tokenizers" / name).iterdir():
        if path.name != "config.json":
            shutil.copy(path, folder / path.name)
    sizes: dict[str, Any] = {"hidden_size": WIDTH, "intermediate_size": INNER, "num_attention_heads": HEADS}
    if family == "bert":
        return model_write(folder, BertForMaskedLM, BertConfig(num_hidden_layers=LAYERS, **sizes), 0)
    if family == "modernbert":
        return gpt2_modernbert(folder, sizes)
    _add_mask(folder)
    config = Qwen2Config(num_hidden_layers=LAYERS, num_key_value_heads=HEADS, vocab_size=151_680, **sizes)
    if family == "dream":
        model_write(folder, Qwen2ForCausalLM, config, 0)
        _config_edit(folder, model_type="Dream", mask_token_id=151_669)
        return folder
    config = LlamaConfig(num_hidden_layers=LAYERS, num_key_value_heads=HEADS, vocab_size=151_680, **sizes)
    model_write(folder, LlamaForCausalLM, config, 0)
    (folder / "model.safetensors").unlink()
    raw = {
        "model_type": "llada",
        "d_model": WIDTH,
        "n_heads": HEADS,
        "n_layers": LAYERS,
        "mlp_hidden_size": INNER,
        "vocab_size": 151_680,
        "max_sequence_length": 1024,
        "mask_token_id": 151_669,
    }
    checkpoint_write(folder, raw, llada_tensors(151_680, HEADS, 0), 1)
    return folder


def gpt2_modernbert(folder: Path, sizes: dict[str, Any]) -> Path:
    """GPT-2's tokenizer has no mask: one is added, in a row of its own."""
    _config_edit(folder, "tokenizer_config.json", mask_token="[MASK]", pad_token="<|endoftext|>")
    special = {"pad_token_id": 50_256, "eos_token_id": 50_256, "bos_token_id": 50_256, "sep_token_id": 50_256}
    config = ModernBertConfig(num_hidden_layers=3, vocab_size=50_258, cls_token_id=50_256, **special, **sizes)
    return model_write(folder, ModernBertForMaskedLM, config, 0)


def _add_mask(folder: Path) -> None:
    _config_edit(folder, "tokenizer_config.json", mask_token="<|mask|>")


def _config_edit(folder: Path, name: str = "config.json", **change: Any) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., TextJob]:
    def make_job(base: Path, files: dict[str, Path | str], **params: Any) -> TextJob:
        job = TextJob(tmp_path / "job", tmp_path / "cache")
        job.dataset.mkdir(parents=True)
        (job.inputs / "model").symlink_to(base)
        for name, content in files.items():
            (job.dataset / name).write_bytes(content.read_bytes() if isinstance(content, Path) else content.encode())
        return job.spec(**params)

    return make_job


def first_lines(path: Path, count: int) -> str:
    return "\n".join(path.read_text().splitlines()[:count])


@pytest.mark.parametrize(
    ("family", "method"), [("bert", "bert"), ("modernbert", "bert"), ("llada", "llada"), ("dream", "dream")]
)
@pytest.mark.parametrize("kind", ["gsm8k", pytest.param("chats", marks=pytest.mark.slow)])
def test_real_rows_train_each_class(
    family: str, method: str, kind: str, shared_data: Path, tmp_path: Path, make: Callable[..., TextJob]
) -> None:
    base = real_base(shared_data, tmp_path / "base", family)
    source = {"gsm8k": "gsm8k/train.jsonl", "chats": "instruct/oasst_en_chat.jsonl"}[kind]
    count = {"gsm8k": GSM8K_ROWS, "chats": CHATS}[kind]
    rows = first_lines(shared_data / source, count)
    lora = {"lora": True, "lora_r": 4, "lora_alpha": 8}
    job = make(base, {"rows.jsonl": rows}, training_method=method, **QUICK, **lora).finished()
    assert all(0 < loss < 100 for loss in job.losses().values())
    result = job.manifest["dataset"]
    assert result["rows"] == count
    assert result["documents"] + result["without_response"] == count
    assert result["chat_format"] == {"bert": "bert", "modernbert": "plain"}.get(family, "chatml")
    assert result["tokens"] <= count * 192


@pytest.mark.parametrize(
    ("name", "rows"),
    [("ok.jsonl", 20), ("ok.parquet", 50), ("no_final_newline.jsonl", 5), ("nested.parquet", 10), ("formula.csv", 1)],
)
def test_good_files_train(
    name: str, rows: int, shared_data: Path, tiny_text: Callable[[str], Path], make: Callable[..., TextJob]
) -> None:
    path = shared_data / "hostile" / "text" / name
    job = make(tiny_text("llada"), {name: path}, **QUICK | {"train_steps": 1}).finished()
    assert job.manifest["dataset"]["rows"] == rows


def test_a_very_long_row_is_cut(
    shared_data: Path, tiny_text: Callable[[str], Path], make: Callable[..., TextJob]
) -> None:
    path = shared_data / "hostile" / "text" / "long_row.jsonl"
    row = json.loads(path.read_text().splitlines()[0])
    (column,) = [name for name, value in row.items() if isinstance(value, str) and len(value) > 900_000]
    params = {**QUICK, "train_steps": 1, "input_template": "the", "output_template": "{{ row_text }}"}
    params["output_template"] = params["output_template"].replace("row_text", column)
    job = make(tiny_text("llada"), {"a.jsonl": path}, **params).finished()
    assert job.manifest["dataset"]["truncated"] == 1


@pytest.mark.parametrize(
    ("name", "expected_message"),
    [
        ("bad_rows.jsonl", "bad_rows.jsonl line 12: expected an object, got list"),
        ("utf16.jsonl", "utf16.jsonl is UTF-16; expected UTF-8"),
        ("array_not_lines.jsonl", "this is a JSON array"),
        ("deep_nesting.json", "nested too deeply"),
        ("chat_bad_roles.jsonl", "chat_bad_roles.jsonl line 1: turn 2: expected assistant, got user"),
        ("ragged.csv", "ragged.csv line 3: expected 2 cells, got 1"),
        ("unicode_columns.csv", "expected the columns"),
    ],
)
def test_hostile_files_are_refused_with_a_reason(
    name: str, expected_message: str, shared_data: Path, tiny_text: Callable[[str], Path], make: Callable[..., TextJob]
) -> None:
    job = make(tiny_text("llada"), {name: shared_data / "hostile" / "text" / name})
    assert job.run() == 1
    reason = job.failure().reason
    assert reason.code == "bad_dataset"
    assert expected_message in reason.message + reason.detail


@pytest.mark.slow
def test_a_real_llama_becomes_a_diffusion_model(shared_data: Path, make: Callable[..., TextJob]) -> None:
    """stories260K on Shakespeare: the causal network at first knows nothing of gaps."""
    text = (shared_data / "text" / "tinyshakespeare" / "input.txt").read_text()[:60_000]
    job = make(
        shared_data / "weights" / "stories260K",
        {"shakespeare.txt": text},
        train_steps=150,
        batch_size=16,
        max_length=128,
        learning_rate=2e-3,
        learning_rate_schedule="cosine",
        eos_padding="masked",
        validation_split=0.05,
        eval_strategy="steps",
        eval_steps=150,
        logging_steps=50,
    ).finished()
    before, after = (event.metrics["nll"] for event in job.of_kind("validation"))
    assert after < before - 1.0
    assert after < 5.0
