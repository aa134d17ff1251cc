import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from tests.tiny_text import BUILDERS, build_tiny_llama
from tests.tolerance import assert_near
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.text.adaptors.lora import (
    attach_text_lora,
    lora_merge,
    targets_of,
    text_adaptor_load,
    text_adaptor_save,
    text_lora_load_state,
    text_lora_state,
)
from trainers.text.models.base import TextBase, hidden_padded, input_embedding, logits, mask_row_of
from trainers.text.models.load import config_dtype, load_text
from trainers.text.models.weights import model_write, save_text

pytestmark = pytest.mark.numeric

FAMILIES = list(BUILDERS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("lora")
    paths = {family: build(root / family) for family, build in BUILDERS.items()}
    return paths | {"tied": build_tiny_llama(root / "tied", tied=True)}


def attach(base: TextBase, **options: Any) -> list[torch.nn.Parameter]:
    """A trained-looking adaptor: r 4, alpha 8, every weight moved away from where it starts."""
    arguments: dict[str, Any] = {"r": 4, "alpha": 8, "dropout": 0.0, "targets": "all-linear", "seed": 1}
    parameters = attach_text_lora(base, **{**arguments, "train_mask_embedding": False, **options})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    base.model.eval()
    return parameters


@torch.no_grad()
def answers(base: TextBase) -> torch.Tensor:
    """Logits of a row with two masks in it."""
    ids = torch.tensor([[5, 6, base.mask_id, 7, base.mask_id, 8]])
    return logits(base, hidden_padded(base, ids))


def test_a_new_pair_does_not_change_outputs_and_is_fp32(folders: dict[str, Path]) -> None:
    base = load_text(folders["llada"], torch.bfloat16)
    before = answers(base)
    parameters = attach_text_lora(
        base, r=8, alpha=16, dropout=0.0, targets="all-linear", seed=1, train_mask_embedding=True
    )
    assert torch.equal(answers(base), before)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    trained = {id(p) for p in base.model.parameters() if p.requires_grad}
    assert trained == {id(p) for p in parameters} and len(parameters) == 2 * 14 + 1
    assert base.model.training


def test_pairs_depend_only_on_the_seed_and_the_layer(folders: dict[str, Path]) -> None:
    def drawn(seed: int, targets: str = "all-linear") -> dict[str, torch.Tensor]:
        base = load_text(folders["llada"], torch.float32)
        attach_text_lora(base, r=4, alpha=8, dropout=0.0, targets=targets, seed=seed, train_mask_embedding=False)
        return text_lora_state(base)

    one, other, few = drawn(1), drawn(2), drawn(1, "q_proj")
    key = "model.layers.0.self_attn.q_proj.lora_A.weight"
    assert torch.equal(one[key], few[key]) and not torch.equal(one[key], other[key])


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_excludes_the_head(folders: dict[str, Path], family: str) -> None:
    base = load_text(folders[family], torch.float32)
    names = targets_of(base, "all-linear")
    inside = {"bert": "bert.encoder.", "modernbert": "model.layers."}.get(family, "model.layers.")
    assert all(name.startswith(inside) or name.startswith("bert.") for name in names)
    per_layer = {"bert": 6, "modernbert": 4}.get(family, 7)
    assert len(names) == per_layer * base.model.config.num_hidden_layers


def test_targets_are_suffixes_of_module_names(folders: dict[str, Path]) -> None:
    base = load_text(folders["llada"], torch.float32)
    assert targets_of(base, "q_proj,mlp.up_proj") == [
        f"model.layers.{i}.{name}" for i in range(2) for name in ("self_attn.q_proj", "mlp.up_proj")
    ]
    for wrong in ("lm_head", "q_proj,nothing", "proj"):
        with pytest.raises(TrainerError, match="is no linear layer of this model; it has down_proj"):
            targets_of(base, wrong)


@pytest.mark.parametrize("family", [*FAMILIES, "tied"])
@torch.no_grad()
def test_stock_peft_opens_the_folder_on_the_stock_model_with_equal_logits(
    folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    base = load_text(folders[family], torch.float32)
    save_text(base, tmp_path / "base")
    attach(base, train_mask_embedding="bert" not in family)  # PEFT drops the bias of a head that is tied to a row
    text_adaptor_save(base, tmp_path / "adaptor", {"base_sha256": "ab"})
    stock: Any = PeftModel.from_pretrained(
        type(base.model).from_pretrained(tmp_path / "base").eval(), tmp_path / "adaptor"
    )
    ids = torch.tensor([[5, 6, base.mask_id, 7, base.mask_id, 8]])
    assert_near(stock(input_ids=ids).logits, answers(base))
    bare = load_text(folders[family], torch.float32)
    assert (answers(bare) - answers(base)).abs().max() > 1e-2


@pytest.mark.parametrize("family", ["llada", "bert", "tied"])
def test_a_saved_adaptor_loads_with_its_scale(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    trained = load_text(folders[family], torch.float32)
    attach(trained, train_mask_embedding=True)
    text_adaptor_save(trained, tmp_path, {"base_sha256": "ab", "note": "é"})
    result = {}
    for scale in (0.0, 0.5, 1.0):
        base = load_text(folders[family], torch.float32)
        assert text_adaptor_load(base, tmp_path, "adaptor_0", scale) == {
            "base_sha256": "ab",
            "note": "é",
            "format": "pt",
        }
        result[scale] = answers(base)
    assert_near(result[1.0], answers(trained))
    assert_near(result[0.0], answers(load_text(folders[family], torch.float32)))
    assert (result[0.5] - result[1.0]).abs().max() > 1e-3 < (result[0.5] - result[0.0]).abs().max()


def test_the_mask_row_learns_and_the_matrix_does_not(folders: dict[str, Path]) -> None:
    base = load_text(folders["llama"], torch.float32)
    before = input_embedding(base).weight.clone()
    parameters = attach_text_lora(base, r=4, alpha=8, dropout=0.0, targets="q_proj", seed=1, train_mask_embedding=True)
    ids = torch.tensor([[5, base.mask_id, 6]])
    hidden_padded(base, ids)[0, 2].sum().backward()  # type: ignore[no-untyped-call]
    row = mask_row_of(base)
    assert row is not None and parameters[-1] is row.row and row.row.grad is not None
    assert row.row.grad.abs().max() > 0 and input_embedding(base).weight.grad is None
    row.row.grad = None
    hidden_padded(base, ids[:, ::2])[0, 1].sum().backward()  # type: ignore[no-untyped-call]
    assert row.row.grad is None or row.row.grad.abs().max() == 0
    assert torch.equal(input_embedding(base).weight, before)


@torch.no_grad()
def test_a_tied_head_sees_the_row_and_never_trains_it(folders: dict[str, Path]) -> None:
    base = load_text(folders["tied"], torch.float32)
    attach(base, train_mask_embedding=True)
    row = mask_row_of(base)
    assert row is not None
    hidden = torch.randn(1, 32)
    torch.testing.assert_close(logits(base, hidden)[0, base.mask_id], hidden[0] @ row.row)
    with torch.enable_grad():
        logits(base, hidden.requires_grad_()).sum().backward()  # type: ignore[no-untyped-call]
    assert row.row.grad is None


def test_state_round_trips(folders: dict[str, Path]) -> None:
    base = load_text(folders["llama"], torch.float32)
    attach(base, train_mask_embedding=True)
    state, before = {k: v.clone() for k, v in text_lora_state(base).items()}, answers(base)
    other = load_text(folders["llama"], torch.float32)
    attach_text_lora(other, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=9, train_mask_embedding=True)
    text_lora_load_state(other, state)
    other.model.eval()
    assert torch.equal(answers(other), before)
    with pytest.raises(ValueError, match=r"expected .* of shape"):
        text_lora_load_state(other, dict(list(state.items())[1:]))


@pytest.mark.parametrize("family", [*FAMILIES, "tied"])
def test_a_fused_model_equals_base_and_adaptor(folders: dict[str, Path], family: str, tmp_path: Path) -> None:
    base = load_text(folders[family], torch.float32)
    attach(base, train_mask_embedding=True)
    expected = answers(base)
    lora_merge(base)
    assert_near(answers(base), expected)
    model_write(base, tmp_path / "model")
    again = load_text(tmp_path / "model", torch.float32)
    assert torch.equal(answers(again), answers(base))
    stock = type(base.model).from_pretrained(tmp_path / "model").eval()
    ids = torch.tensor([[5, 6, base.mask_id, 7, base.mask_id, 8]])
    assert_near(stock(input_ids=ids).logits, answers(base))
    if family in ("llada", "dream"):
        original = load_text(tmp_path / "model" / "original", torch.float32)
        assert_near(answers(original), answers(base))


def test_two_adaptors_add_up_in_a_fused_model(folders: dict[str, Path], tmp_path: Path) -> None:
    for seed in (1, 2):
        trained = load_text(folders["llama"], torch.float32)
        attach(trained, seed=seed, train_mask_embedding=True)
        text_adaptor_save(trained, tmp_path / str(seed), {})
    base = load_text(folders["llama"], torch.float32)
    plain = {name: value.clone() for name, value in base.model.state_dict().items()}
    text_adaptor_load(base, tmp_path / "1", "one", 1.0)
    text_adaptor_load(base, tmp_path / "2", "two", 0.5)
    together = answers(base)
    lora_merge(base)
    assert_near(answers(base), together)
    weight = "model.layers.1.mlp.up_proj"
    moved = torch.zeros_like(plain[f"{weight}.weight"])
    for folder, scale in (("1", 1.0), ("2", 0.5)):
        file = load_file(tmp_path / folder / "adapter_model.safetensors")
        a, b = (file[f"base_model.model.{weight}.lora_{half}.weight"] for half in "AB")
        moved += scale * 8 / 4 * b @ a
    torch.testing.assert_close(base.model.state_dict()[f"{weight}.weight"], plain[f"{weight}.weight"] + moved)


def test_half_precision_weights_are_rounded_once(folders: dict[str, Path], tmp_path: Path) -> None:
    base = load_text(folders["llada"], torch.bfloat16)
    weight = base.model.model.layers[0].mlp.up_proj.weight.float().clone()
    attach(base)
    state = text_lora_state(base)
    lora_merge(base)
    name = "model.layers.0.mlp.up_proj.lora_"
    exact = weight + 2.0 * state[f"{name}B.weight"] @ state[f"{name}A.weight"]
    assert torch.equal(base.model.model.layers[0].mlp.up_proj.weight, exact.to(torch.bfloat16))
    save_text(base, tmp_path / "half")
    assert config_dtype(tmp_path / "half") == torch.bfloat16


def test_saving_an_adaptor_is_deterministic(folders: dict[str, Path], tmp_path: Path) -> None:
    for name in ("one", "two"):
        base = load_text(folders["llada"], torch.float32)
        attach(base)
        text_adaptor_save(base, tmp_path / name, {"b": "1", "a": "2"})
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.fixture
def saved(folders: dict[str, Path], tmp_path: Path) -> Path:
    base = load_text(folders["llama"], torch.float32)
    attach(base, train_mask_embedding=True)
    text_adaptor_save(base, tmp_path / "adaptor", {})
    return tmp_path / "adaptor"


PAIR = "base_model.model.model.layers.0.mlp.up_proj.lora_"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({f"{PAIR}A.weight": None}, "lacks its other half"),
        ({f"{PAIR}A.weight": torch.full((4, 32), float("nan"))}, "NaN, infinite"),
        ({f"{PAIR}A.weight": torch.ones(4, 31)}, "which do not fit the base model's weight (64, 32)"),
        ({"model.x.lora_A.weight": torch.ones(1, 1)}, "begin with base_model.model."),
        ({"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": None}, "holds 0 trained rows"),
        (
            {f"base_model.model.lm.lora_{half}.weight": torch.ones(4, 4) for half in "AB"},
            "lm is no linear layer",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    folders: dict[str, Path], saved: Path, change: dict[str, torch.Tensor | None], sentence: str
) -> None:
    path = saved / "adapter_model.safetensors"
    tensors = {key: value for key, value in {**load_file(path), **change}.items() if value is not None}
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(TrainerError) as caught:
        text_adaptor_load(load_text(folders["llama"], torch.float32), saved, "a", 1.0)
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR and sentence in caught.value.reason.message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"use_dora": True}, "use_dora is True"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"trainable_token_indices": [3]}, "expected the mask token 264 of model.embed_tokens"),
        ({"lora_alpha": None}, "has no lora_alpha"),
    ],
)
def test_unsupported_peft_settings_are_refused(
    folders: dict[str, Path], saved: Path, change: dict[str, Any], sentence: str
) -> None:
    path = saved / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(TrainerError) as caught:
        text_adaptor_load(load_text(folders["llama"], torch.float32), saved, "a", 1.0)
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR and sentence in caught.value.reason.message


def test_an_adaptor_trains_on_4bit_weights_but_does_not_merge_into_them(folders: dict[str, Path]) -> None:
    pytest.importorskip("bitsandbytes")
    base = load_text(folders["llada"], torch.float32, quantization="nf4")
    parameters = attach(base)
    base.model.train()
    hidden_padded(base, torch.tensor([[5, 6, 7]])).sum().backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None and parameter.grad.abs().max() > 0 for parameter in parameters)
    with pytest.raises(TrainerError, match="has 4-bit weights"):
        lora_merge(base)
