"""What a text base computes: alone, padded, packed or cached the same, of any family, dtype and dropout."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaForCausalLM, Qwen2ForCausalLM

from tests.tiny_text import BUILDERS, dream_tensors, llada_tensors
from tests.tolerance import assert_near
from trainers.text.models.base import (
    TextBase,
    body,
    cache_fill,
    dropout_set,
    head_features,
    head_weight,
    hidden_cached,
    hidden_masked,
    hidden_packed,
    hidden_padded,
    logits,
)
from trainers.text.models.load import load_text

pytestmark = pytest.mark.numeric

FAMILIES = list(BUILDERS)
LENGTHS = (40, 7, 40, 23)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One tiny checkpoint of each family in its original format. Read only."""
    root = tmp_path_factory.mktemp("text")
    return {family: build(root / family) for family, build in BUILDERS.items()}


@pytest.fixture(scope="module")
def bases(folders: dict[str, Path]) -> dict[str, TextBase]:
    return {family: load_text(folder, torch.float32) for family, folder in folders.items()}


def rows_of(base: TextBase, lengths: tuple[int, ...] = LENGTHS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, base.vocab_size, (length,), generator=generator) for length in lengths]


def padded(rows: list[Tensor], base: TextBase, *, left: bool = False, width: int = 45) -> tuple[Tensor, Tensor]:
    ids, attention = torch.full((len(rows), width), base.pad_id), torch.zeros(len(rows), width, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[index, place], attention[index, place] = row, 1
    return ids, attention


LLADA_NAMES = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def reference_llada(base: TextBase) -> Any:
    """A plain LlamaForCausalLM with the checkpoint's tensors renamed by hand, which sees both sides by its config."""
    state = {}
    for name, tensor in llada_tensors(base.vocab_size, 4, 0).items():
        path = name.removeprefix("model.transformer.").removesuffix(".weight")
        outer = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}
        if path not in outer:
            _, layer, part = path.split(".")
            path = f"model.layers.{layer}.{LLADA_NAMES[part]}"
        state[f"{outer.get(path, path)}.weight"] = tensor
    config = type(base.model.config).from_dict(base.model.config.to_dict() | {"is_causal": False})
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict(state, strict=True)
    return model


def reference_dream(base: TextBase) -> Any:
    config = type(base.model.config).from_dict(base.model.config.to_dict() | {"is_causal": False})
    model = Qwen2ForCausalLM(config).eval()
    model.load_state_dict(dream_tensors(base.vocab_size, 0), strict=True)
    return model


@pytest.mark.parametrize(("family", "reference"), [("llada", reference_llada), ("dream", reference_dream)])
@torch.no_grad()
def test_logits_equal_the_stock_class_with_renamed_tensors(
    bases: dict[str, TextBase], family: str, reference: Callable[[TextBase], Any]
) -> None:
    base = bases[family]
    stock = reference(base)
    (row,) = rows_of(base, (31,))
    assert stock.config._attn_implementation == "sdpa"
    assert_near(logits(base, hidden_padded(base, row[None])), stock(row[None]).logits)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_attention_is_bidirectional(bases: dict[str, TextBase], family: str) -> None:
    base = bases[family]
    (row,) = rows_of(base, (6,))
    other = row.clone()
    other[-1] = (other[-1] + 1) % base.vocab_size
    assert base.model.config.is_causal is False
    assert (hidden_padded(base, row[None])[0, 0] - hidden_padded(base, other[None])[0, 0]).abs().max() > 1e-4


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_row_depends_on_neither_padding_nor_other_rows(bases: dict[str, TextBase], family: str) -> None:
    base = bases[family]
    rows = rows_of(base)
    alone = [hidden_padded(base, row[None])[0] for row in rows]
    for left in (False, True):
        ids, attention = padded(rows, base, left=left)
        hidden = hidden_padded(base, ids, attention)
        for index, row in enumerate(rows):
            assert_near(hidden[index][attention[index].bool()], alone[index])
            assert len(row) == int(attention[index].sum())


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_mask_of_ones_equals_no_mask_bit_for_bit(bases: dict[str, TextBase], family: str) -> None:
    base = bases[family]
    ids = torch.stack(rows_of(base, (20, 20)))
    assert torch.equal(hidden_padded(base, ids, torch.ones_like(ids)), hidden_padded(base, ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_documents_equal_padded_ones_with_their_gradients(folders: dict[str, Path], family: str) -> None:
    base = load_text(folders[family], torch.float64)
    base.model.requires_grad_(True)
    rows = rows_of(base)
    ids, attention = padded(rows, base)
    weights = torch.randn(sum(LENGTHS), base.model.config.hidden_size, dtype=torch.float64)
    result = []
    for hidden in (
        hidden_packed(base, torch.cat(rows), LENGTHS),
        hidden_padded(base, ids, attention)[attention.bool()],
    ):
        base.model.zero_grad()
        (hidden * weights).sum().backward()  # type: ignore[no-untyped-call]
        grads = [p.grad.clone() for p in body(base).parameters() if p.grad is not None]
        result.append((hidden.detach(), grads))
    (packed, packed_grads), (plain, plain_grads) = result
    torch.testing.assert_close(packed, plain, atol=1e-10, rtol=0)
    assert len(packed_grads) == len(plain_grads) > 10
    for one, other in zip(packed_grads, plain_grads, strict=True):
        torch.testing.assert_close(one, other, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_cached_step_equals_a_full_forward_if_it_covers_all_changed_columns(
    bases: dict[str, TextBase], family: str
) -> None:
    """One layer sees only what its columns hold, so a step over every column must equal a fresh forward."""
    base = bases[family]
    ids, attention = padded(rows_of(base), base)
    complete, cache = cache_fill(base, ids, attention.bool())
    assert_near(complete[attention.bool()], hidden_padded(base, ids, attention)[attention.bool()])
    same = hidden_cached(base, ids[:, 3:7], torch.arange(3, 7).expand(4, 4), cache)
    assert_near(same, complete[:, 3:7])
    changed = ids.clone()
    changed[:, 3:7] = (changed[:, 3:7] + 1) % base.vocab_size
    columns = torch.arange(ids.shape[1]).expand_as(ids)
    again = hidden_cached(base, changed, columns, cache)
    assert_near(again[attention.bool()], hidden_padded(base, changed, attention)[attention.bool()])


class NoWaiting(TorchDispatchMode):
    """Refuses what reads a value of a tensor, for which an accelerator must finish its work."""

    def __torch_dispatch__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default), func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", ["llada", "dream", "bert", "modernbert"])
@pytest.mark.parametrize("padded", [True, False])
@torch.no_grad()
def test_no_layer_of_a_sampling_step_waits_for_the_device(
    bases: dict[str, TextBase], family: str, padded: bool
) -> None:
    base = bases[family]
    ids_BL = torch.arange(5, 25).reshape(2, 10)
    attention_BL = torch.ones(2, 10, dtype=torch.bool) if padded else None
    if attention_BL is not None:
        attention_BL[1, 7:] = False
    columns_BS = torch.tensor([[2, 3], [4, 5]])
    with NoWaiting():
        hidden_masked(base, ids_BL, attention_BL)
        _, cache = cache_fill(base, ids_BL, attention_BL)
        hidden_cached(base, ids_BL.gather(1, columns_BS), columns_BS, cache)


@torch.no_grad()
def test_a_cached_step_writes_keys_and_values_in_place(bases: dict[str, TextBase]) -> None:
    base = bases["llada"]
    ids_BL = torch.arange(5, 25).reshape(2, 10)
    _, cache = cache_fill(base, ids_BL, torch.ones(2, 10, dtype=torch.bool))
    before = {layer: (key.data_ptr(), cache.values[layer].data_ptr()) for layer, key in cache.keys.items()}
    keys = {layer: key.clone() for layer, key in cache.keys.items()}
    columns_BS = torch.tensor([[2, 3], [4, 5]])
    hidden_cached(base, torch.full((2, 2), 9), columns_BS, cache)
    assert {layer: (key.data_ptr(), cache.values[layer].data_ptr()) for layer, key in cache.keys.items()} == before
    for layer, key in cache.keys.items():
        changed_BL = (key != keys[layer]).any(-1).any(1)
        assert changed_BL.nonzero().tolist() == [[0, 2], [0, 3], [1, 4], [1, 5]]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_features_times_the_head_matrix_are_the_logits(bases: dict[str, TextBase], family: str) -> None:
    base = bases[family]
    (row,) = rows_of(base, (9,))
    hidden = hidden_padded(base, row[None])
    weight, bias = head_weight(base)
    computed = head_features(base, hidden) @ weight.T + (0 if bias is None else bias)
    assert_near(computed, base.model(row[None]).logits)
    assert_near(logits(base, hidden), base.model(row[None]).logits)


@torch.no_grad()
def test_bert_uses_all_of_its_512_positions(bases: dict[str, TextBase]) -> None:
    base = bases["bert"]
    assert base.max_positions == 512
    (row,) = rows_of(base, (512,))
    hidden = hidden_packed(base, torch.cat([row, row[:3]]), (512, 3))
    assert_near(hidden[:512], hidden_padded(base, row[None])[0])


@torch.no_grad()
def test_modernbert_attends_within_a_window_in_local_layers(bases: dict[str, TextBase]) -> None:
    """With a window over everything the states differ: the window is real, and all three forwards keep it."""
    base = bases["modernbert"]
    (row,) = rows_of(base, (40,))
    narrow = hidden_packed(base, row, (40,))
    windows = [module for module in base.model.modules() if getattr(module, "sliding_window", None)]
    before = [module.sliding_window for module in windows]
    for module in windows:
        module.sliding_window = 100
    wide = hidden_packed(base, row, (40,))
    for module, value in zip(windows, before, strict=True):
        module.sliding_window = value
    assert (narrow - wide).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weights_have_the_requested_dtype(folders: dict[str, Path], dtype: torch.dtype) -> None:
    base = load_text(folders["dream"], dtype)
    assert {parameter.dtype for parameter in base.model.parameters()} == {dtype}
    assert hidden_padded(base, torch.tensor([[1, 2]])).dtype == dtype
    assert not any(parameter.requires_grad for parameter in base.model.parameters()) and not base.model.training


@torch.no_grad()
def test_nf4_quantizes_all_linear_layers_but_the_head(bases: dict[str, TextBase], folders: dict[str, Path]) -> None:
    quantise = pytest.importorskip("bitsandbytes").functional
    base = load_text(folders["llada"], torch.float32, quantization="nf4")
    plain = load_text(folders["llada"], torch.float32)
    for module in body(plain).modules():
        if isinstance(module, torch.nn.Linear):
            codes, state = quantise.quantize_4bit(module.weight.data, quant_type="nf4")
            module.weight.copy_(quantise.dequantize_4bit(codes, state))
    (row,) = rows_of(base, (30,))
    near, rounded = hidden_padded(base, row[None]), hidden_padded(plain, row[None])
    exact = hidden_padded(bases["llada"], row[None])
    assert (near - rounded).abs().max() < 0.05 < 0.5 < (near - exact).abs().max()  # its CPU kernel computes in bf16
    assert type(base.model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert type(base.model.lm_head) is torch.nn.Linear


def test_dropout_reaches_every_layer_and_attention(folders: dict[str, Path]) -> None:
    for family in FAMILIES:
        base = load_text(folders[family], torch.float32)
        ids = torch.stack(rows_of(base, (20,)))
        base.model.train()
        dropout_set(base, 0.0)
        assert torch.equal(hidden_padded(base, ids), hidden_padded(base, ids))
        dropout_set(base, 0.3)
        assert not torch.equal(hidden_packed(base, ids[0], (20,)), hidden_packed(base, ids[0], (20,)))
