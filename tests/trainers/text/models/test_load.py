"""Text bases opened and saved: special tokens, stock formats, and every folder that is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.tiny_text import BUILDERS, build_tiny_llama
from tests.tolerance import assert_near
from tests.trainers.text.models.test_base import FAMILIES, rows_of
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.models.base import TextBase, hidden_packed, hidden_padded, logits
from trainers.text.models.load import load_text
from trainers.text.models.weights import export_original, save_text

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny checkpoint of each family in its original format. Read only."""
    root = tmp_path_factory.mktemp("text")
    return {family: build(root / family) for family, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, TextBase]:
    return {family: load_text(folder, torch.float32) for family, folder in folders.items()}


@pytest.fixture
def copy(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda family: Path(shutil.copytree(folders[family], tmp_path / family))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        load_text(folder, torch.float32)
    assert caught.value.reason.code == ReasonCode.BAD_BASE_MODEL
    return caught.value.reason.message


def test_special_ids_come_from_config_and_tokenizer(bases: dict[str, TextBase]) -> None:
    def token(family: str, ids: int | None) -> str | None:
        return None if ids is None else str(bases[family].tokenizer.convert_ids_to_tokens(ids))

    special_ids = {
        name: tuple(token(name, i) for i in (base.mask_id, base.eos_id, base.pad_id, base.bos_id))
        for name, base in bases.items()
    }
    assert special_ids == {
        "llada": ("<|mdm_mask|>", "<|endoftext|>", "<|endoftext|>", "<|startoftext|>"),
        "dream": ("<|mask|>", "<|endoftext|>", "<|endoftext|>", "<|beginoftext|>"),
        "bert": ("[MASK]", "[SEP]", "[PAD]", "[CLS]"),
        "modernbert": ("[MASK]", "[SEP]", "[PAD]", "[CLS]"),
        "llama": ("<|mask|>", "</s>", "</s>", "<s>"),
        "qwen2": ("<|mask|>", "<|im_end|>", "<|endoftext|>", None),
        "qwen3": ("<|mask|>", "<|im_end|>", "<|endoftext|>", None),
    }
    assert {name for name, base in bases.items() if base.shift} == {"dream"}
    assert {name for name, base in bases.items() if base.was_causal} == {"llama", "qwen2", "qwen3"}


def test_special_ids_fall_back_to_those_of_the_published_models(copy: Callable[[str], Path]) -> None:
    """A LLaDA of the real vocabulary whose config and tokenizer say no special token."""
    folder = copy("llada")
    (folder / "tokenizer_config.json").write_text("{}")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    for file in folder.glob("*.safetensors"):
        tensors = load_file(file)
        for name in ("model.transformer.wte.weight", "model.transformer.ff_out.weight"):
            if name in tensors:
                tensors[name] = torch.zeros(126464, 32)
        save_file(tensors, file)
    gone = {"eos_token_id": None, "pad_token_id": None, "mask_token_id": None}
    edit(folder / "config.json", vocab_size=126464, embedding_size=126464, **gone)
    base = load_text(folder, torch.float32)
    assert (base.mask_id, base.eos_id, base.pad_id, base.bos_id) == (126336, 126081, 126081, 126080)


@pytest.mark.parametrize("spare", [4, 0])
@pytest.mark.parametrize("tied", [False, True])
def test_a_causal_base_gets_a_mask_token_in_an_unused_or_a_new_row(tmp_path: Path, spare: int, tied: bool) -> None:
    folder = build_tiny_llama(tmp_path, spare_rows=spare, tied=tied)
    stored = load_file(folder / "model.safetensors")
    base = load_text(folder, torch.float32)
    num_tokens = len(stored["model.embed_tokens.weight"]) - spare
    embedding, head = base.model.get_input_embeddings().weight, base.model.get_output_embeddings().weight
    assert base.mask_id == num_tokens == base.tokenizer.mask_token_id
    assert base.tokenizer("a<|mask|>", add_special_tokens=False).input_ids[-1] == num_tokens
    assert base.vocab_size == len(embedding) == len(head) == num_tokens + max(spare, 1)
    assert (embedding is head) == tied
    matrices = [("model.embed_tokens.weight", embedding)] + ([] if tied else [("lm_head.weight", head)])
    for name, weight in matrices:
        assert torch.equal(weight[:num_tokens], stored[name][:num_tokens])
        expected = stored[name][num_tokens] if spare else stored[name].mean(0)
        torch.testing.assert_close(weight[num_tokens], expected)


def test_a_tokenizer_larger_than_the_network_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("llama")
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:200].clone()
    save_file(tensors, folder / "model.safetensors")
    edit(folder / "config.json", vocab_size=200)
    assert "the tokenizer has 264 tokens but the network 200 rows" in refusal(folder)


def test_a_special_token_without_a_row_in_the_network_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    edit(folder / "tokenizer_config.json", sep_token="<new>")
    assert re.search(r"sep_token '<new>' has the id \d+, expected one below the network's \d+ rows", refusal(folder))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_saved_model_opens_here_and_in_stock_transformers(
    bases: dict[str, TextBase], family: str, tmp_path: Path
) -> None:
    base = bases[family]
    save_text(base, tmp_path / "saved")
    again = load_text(tmp_path / "saved", torch.float32)
    (row,) = rows_of(base, (12,))
    expected = logits(base, hidden_padded(base, row[None]))
    assert torch.equal(logits(again, hidden_padded(again, row[None])), expected)
    assert not again.was_causal
    same = ("family", "mask_id", "eos_id", "pad_id", "bos_id", "shift", "max_positions")
    assert [getattr(again, name) for name in same] == [getattr(base, name) for name in same]
    stock = type(base.model).from_pretrained(tmp_path / "saved").eval()
    assert_near(stock(row[None]).logits, expected)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").mask_token_id == base.mask_id


@torch.no_grad()
def test_a_saved_llada_is_a_llama_for_the_auto_class(bases: dict[str, TextBase], tmp_path: Path) -> None:
    save_text(bases["llada"], tmp_path / "saved", dtype=torch.bfloat16)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert type(stock) is LlamaForCausalLM
    assert stock.dtype == torch.bfloat16 and stock.config.is_causal is False


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_the_original_format_round_trips_by_name(
    bases: dict[str, TextBase], folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    save_text(bases[family], tmp_path / "saved")
    export_original(load_text(tmp_path / "saved", torch.float32), tmp_path / "original")
    before = {k: v for file in folders[family].glob("*.safetensors") for k, v in load_file(file).items()}
    after = load_file(tmp_path / "original" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    config = json.loads((tmp_path / "original" / "config.json").read_text())
    first = json.loads((folders[family] / "config.json").read_text())
    assert first.pop("auto_map") and "auto_map" not in config, "a product names no code that it does not bring"
    assert {key: config[key] for key in first} == first
    assert "diffusion" not in config and "is_causal" not in config
    assert load_text(tmp_path / "original", torch.float32).family == family


def test_missing_and_unexpected_tensors_are_named(copy: Callable[[str], Path]) -> None:
    folder = copy("llada")
    file = next(f for f in sorted(folder.glob("*.safetensors")) if "model.transformer.wte.weight" in load_file(f))
    tensors = load_file(file)
    gone = tensors.pop("model.transformer.wte.weight")
    save_file(tensors, file)
    assert "the weights model.embed_tokens.weight are missing" in refusal(folder)
    save_file(tensors | {"model.transformer.wte.weight": gone, "model.transformer.wpe.weight": gone.clone()}, file)
    assert "model.transformer.wpe.weight fit no weight of the network" in refusal(folder)
    save_file(tensors | {"model.transformer.wte.weight": gone[:5].clone()}, file)
    assert "model.transformer.wte.weight has shape (5, 32), expected (271, 32)" in refusal(folder)


def test_a_missing_shard_is_named(copy: Callable[[str], Path]) -> None:
    folder = copy("dream")
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "names the shard model-00002-of-00002.safetensors, which is not there" in refusal(folder)


def test_pickle_weights_are_never_loaded(copy: Callable[[str], Path]) -> None:
    folder = copy("bert")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "found pytorch_model.bin, which is pickle and never loaded" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"alibi": True}, "alibi is True, expected False"),
        ({"layer_norm_type": "default"}, "layer_norm_type is 'default', expected 'rms'"),
        ({"d_model": None}, "d_model is None, expected a whole number from 1 to 65536"),
        ({"model_type": "gpt2"}, "model_type is 'gpt2', expected one of llada, dream, bert"),
    ],
)
def test_a_config_of_another_network_is_refused(
    copy: Callable[[str], Path], change: dict[str, Any], sentence: str
) -> None:
    folder = copy("llada")
    edit(folder / "config.json", **change)
    assert sentence in refusal(folder)


def test_a_window_over_the_past_is_refused(copy: Callable[[str], Path]) -> None:
    folder = copy("qwen2")
    edit(folder / "config.json", use_sliding_window=True, sliding_window=8, max_window_layers=0, layer_types=None)
    assert "use_sliding_window is true, expected false" in refusal(folder)


def test_code_in_the_folder_is_never_executed(copy: Callable[[str], Path]) -> None:
    folder = copy("dream")
    marker = folder / "EXECUTED"
    for name in ("modeling_dream", "tokenization_dream", "configuration_dream"):
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'w')")
    assert load_text(folder, torch.float32).family == "dream"
    assert not marker.exists()


def test_bert_with_old_names_and_other_heads_loads(copy: Callable[[str], Path], bases: dict[str, TextBase]) -> None:
    folder = copy("bert")
    tensors = load_file(folder / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in tensors.items()
    }
    others = {"bert.pooler.dense.weight": torch.ones(2), "cls.seq_relationship.bias": torch.ones(2)}
    save_file(old | others, folder / "model.safetensors")
    again = load_text(folder, torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(hidden_padded(again, ids), hidden_padded(bases["bert"], ids))


@pytest.mark.acceptance
@torch.no_grad()
def test_the_real_stories260k_becomes_a_diffusion_base(shared_data: Path, tmp_path: Path) -> None:
    base = load_text(shared_data / "weights" / "stories260K", torch.float32)
    assert (base.family, base.was_causal, base.mask_id, base.vocab_size) == ("llama", True, 512, 513)
    stock = LlamaForCausalLM.from_pretrained(shared_data / "weights" / "stories260K").eval()
    ids = torch.tensor([base.tokenizer("Once upon a time", add_special_tokens=False).input_ids])
    causal = stock(ids).logits
    ours = logits(base, hidden_padded(base, ids))[..., :512]
    stock.config.is_causal = False
    assert_near(ours, stock(ids).logits)
    assert not torch.allclose(ours, causal, atol=1e-2)
    save_text(base, tmp_path / "saved")
    assert load_text(tmp_path / "saved", torch.float32).vocab_size == 513


REAL_TOKENIZERS = [
    ("bert-base-uncased", "bert", 103, 30522),
    ("gpt2", "llama", 50257, 50257),
    ("qwen3-0.6b", "qwen3", 151669, 151936),
]


@pytest.mark.acceptance
@pytest.mark.parametrize(("name", "family", "mask_id", "vocab_size"), REAL_TOKENIZERS)
def test_real_tokenizers_serve_tiny_models(
    shared_data: Path, copy: Callable[[str], Path], name: str, family: str, mask_id: int, vocab_size: int
) -> None:
    folder = copy(family)
    for old in (*folder.glob("tokenizer*"), *folder.glob("vocab*"), *folder.glob("merges*")):
        old.unlink()
    for file in (shared_data / "tokenizers" / name).iterdir():
        if file.name not in ("config.json", "README.md"):
            shutil.copy(file, folder / file.name)
    tensors = load_file(folder / "model.safetensors")
    width = 32
    resized = {
        key: torch.randn(vocab_size, *value.shape[1:]) * 0.1
        if key.endswith(("embed_tokens.weight", "lm_head.weight", "word_embeddings.weight", "predictions.bias"))
        else value
        for key, value in tensors.items()
    }
    save_file(resized, folder / "model.safetensors")
    edit(folder / "config.json", vocab_size=vocab_size)
    base = load_text(folder, torch.float32)
    assert base.mask_id == mask_id and base.vocab_size == max(vocab_size, mask_id + 1)
    ids = base.tokenizer("Hello world 你好", add_special_tokens=False).input_ids
    assert hidden_packed(base, torch.tensor(ids), (len(ids),)).shape == (len(ids), width)
