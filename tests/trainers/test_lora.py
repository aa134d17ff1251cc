import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_sd import build_tiny_sd
from trainers.adaptor_file import WEIGHTS
from trainers.adaptor_load import adaptor_load
from trainers.adaptor_save import adaptor_save
from trainers.errors import ReasonCode, TrainerError
from trainers.lora import attach, lora_load_state, lora_state
from trainers.models.base import Base
from trainers.models.load import load_base

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
"""One attention projection of the tiny base, 32 -> 32; SD 1.x has it too, 320 -> 320."""


@pytest.fixture
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def adaptor(tiny_sd: Path, tmp_path: Path) -> Path:
    """Folder of an adaptor with r=4 and alpha=12, whose update is not zero."""
    unet = load_base(tiny_sd, torch.float32).network
    trained(unet, r=4, alpha=12)
    adaptor_save(unet, tmp_path / "adaptor", metadata={"trigger_word": "sks"})
    return tmp_path / "adaptor"


def trained(unet: nn.Module, *, r: int = 4, alpha: float = 8, dropout: float = 0.0) -> list[nn.Parameter]:
    """Attaches pairs and moves them, as some training would."""
    parameters = attach(unet, r=r, alpha=alpha, dropout=dropout, seed=7)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return parameters


def prediction(unet: nn.Module) -> Tensor:
    """(1, 4, 8, 8), of fixed inputs, in eval mode."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(unet.parameters()).dtype
    latents, text = (torch.randn(shape, generator=generator).to(dtype) for shape in ((1, 4, 8, 8), (1, 77, 32)))
    unet.eval()
    with torch.no_grad():
        output: Tensor = unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    return output.float()


def weight_delta(unet: nn.Module, module: str, adapter: str) -> Tensor:
    """What the adaptor adds to the weight of `module`, as peft itself works it out."""
    layer = unet.get_submodule(module)
    delta: Tensor = layer.get_delta_weight(adapter)  # type: ignore[operator]
    return delta


def refusal(unet: nn.Module, folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        adaptor_load(unet, folder, name="a")
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR
    return str(caught.value)


def test_a_fresh_adaptor_changes_nothing_and_a_trained_one_does(base: Base) -> None:
    before = prediction(base.network)
    parameters = attach(base.network, r=4, alpha=8, dropout=0.0, seed=7)
    assert torch.equal(prediction(base.network), before)
    with torch.no_grad():
        parameters[1].add_(1.0)
    assert not torch.equal(prediction(base.network), before)


def test_pairs_sit_on_every_attention_projection_and_nowhere_else(base: Base) -> None:
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7)
    modules = {key.rsplit(".lora_", 1)[0] for key in lora_state(base.network)}
    projections = (".to_q", ".to_k", ".to_v", ".to_out.0")
    assert modules == {name for name, _ in base.network.named_modules() if name.endswith(projections)}
    assert len(modules) == 2 * 4 * len([name for name, _ in base.network.named_modules() if name.endswith(".attn2")])


def test_only_the_pairs_are_trainable(base: Base) -> None:
    parameters = attach(base.network, r=4, alpha=8, dropout=0.0, seed=7)
    trainable = {id(parameter) for parameter in base.network.parameters() if parameter.requires_grad}
    assert trainable == {id(parameter) for parameter in parameters}


def test_the_start_depends_on_the_seed_alone(tiny_sd: Path) -> None:
    def start(seed: int, global_seed: int) -> dict[str, Tensor]:
        unet = load_base(tiny_sd, torch.float32).network
        torch.manual_seed(global_seed)
        attach(unet, r=4, alpha=8, dropout=0.0, seed=seed)
        return lora_state(unet)

    first, again, other = start(7, 1), start(7, 2), start(2**63 - 1, 1)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_the_start_is_uniform_within_the_square_root_of_the_inputs_and_zero(base: Base) -> None:
    attach(base.network, r=64, alpha=8, dropout=0.0, seed=7)
    state = lora_state(base.network)
    a, b = state[f"{LAYER}.lora_A.weight"], state[f"{LAYER}.lora_B.weight"]
    bound = 32**-0.5
    assert a.shape == (64, 32) and b.shape == (32, 64)
    assert 0.95 * bound < a.abs().max() <= bound
    assert abs(a.std().item() - bound / 3**0.5) < 0.05 * bound
    assert not b.any()


def test_two_layers_of_one_shape_start_differently(base: Base) -> None:
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7)
    state = lora_state(base.network)
    assert not torch.equal(state[f"{LAYER}.lora_A.weight"], state[f"{LAYER[:-1]}v.lora_A.weight"])


def test_attaching_leaves_the_global_random_state_alone(base: Base) -> None:
    before = torch.get_rng_state()
    attach(base.network, r=4, alpha=8, dropout=0.0, seed=7)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_pairs_stay_fp32_on_a_half_precision_base_forward_and_backward(tiny_sd: Path, dtype: torch.dtype) -> None:
    unet = load_base(tiny_sd, dtype).network
    parameters = trained(unet)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert unet.conv_in.weight.dtype == dtype
    latents, text = torch.zeros(1, 4, 8, 8, dtype=dtype), torch.ones(1, 77, 32, dtype=dtype)
    output = unet(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    assert output.dtype == dtype
    output.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.dtype == torch.float32 for parameter in parameters)


def test_alpha_over_r_scales_the_update(tiny_sd: Path) -> None:
    deltas = []
    for alpha in (4, 8):
        unet = load_base(tiny_sd, torch.float32).network
        trained(unet, r=4, alpha=alpha)
        deltas.append(weight_delta(unet, LAYER, "default"))
    assert torch.allclose(deltas[1], 2 * deltas[0])
    state = lora_state(unet)
    assert torch.allclose(deltas[0], state[f"{LAYER}.lora_B.weight"] @ state[f"{LAYER}.lora_A.weight"])


def test_dropout_works_in_training_and_not_in_evaluation(base: Base) -> None:
    trained(base.network, dropout=0.5)
    inputs = torch.zeros(1, 4, 8, 8), torch.tensor([500]), torch.ones(1, 77, 32)
    assert base.network.training
    with torch.no_grad():
        first, second = (base.network(*inputs).sample for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(prediction(base.network), prediction(base.network))


def test_the_state_goes_out_and_back_to_the_last_bit(base: Base, tiny_sd: Path) -> None:
    trained(base.network)
    other = load_base(tiny_sd, torch.float32).network
    attach(other, r=4, alpha=8, dropout=0.0, seed=99)
    lora_load_state(other, lora_state(base.network))
    assert torch.equal(prediction(other), prediction(base.network))


def test_a_state_of_another_rank_is_refused_with_both_shapes(base: Base, tiny_sd: Path) -> None:
    trained(base.network, r=4)
    other = load_base(tiny_sd, torch.float32).network
    attach(other, r=8, alpha=8, dropout=0.0, seed=7)
    with pytest.raises(ValueError, match=r"expected .* of shape torch.Size\(\[8, 32\]\), got torch.Size\(\[4, 32\]\)"):
        lora_load_state(other, lora_state(base.network))


def test_stock_diffusers_reloads_the_file_with_its_alpha_and_draws_the_same_picture(
    tiny_sd: Path, tmp_path: Path
) -> None:
    live = load_base(tiny_sd, torch.float32)
    trained(live.network, r=4, alpha=12)
    adaptor_save(live.network, tmp_path, metadata={})
    live.network.eval()
    stock: Any = StableDiffusionPipeline.from_pretrained(tiny_sd, use_safetensors=True)  # type: ignore[no-untyped-call]
    stock.load_lora_weights(tmp_path, weight_name=WEIGHTS, adapter_name="stock")
    assert torch.equal(weight_delta(stock.unet, LAYER, "stock"), weight_delta(live.network, LAYER, "default"))
    assert picture(stock).tobytes() == picture(live.pipeline()).tobytes()
    assert picture(stock).tobytes() != picture(load_base(tiny_sd, torch.float32).pipeline()).tobytes()


def picture(pipeline: Any) -> Image.Image:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    drawn: Image.Image = pipeline("a dog", num_inference_steps=2, generator=generator).images[0]
    return drawn


def test_the_file_has_diffusers_keys_and_says_what_it_is(adaptor: Path) -> None:
    with safe_open(adaptor / WEIGHTS, framework="pt") as file:
        assert f"unet.{LAYER}.lora_A.weight" in list(file.keys())
        metadata = file.metadata()
    assert metadata["trigger_word"] == "sks" and metadata["format"] == "pt"
    header = json.loads(metadata["lora_adapter_metadata"])
    assert (header["unet.r"], header["unet.lora_alpha"]) == (4, 12)


def test_equal_weights_give_equal_bytes(base: Base, tmp_path: Path) -> None:
    trained(base.network)
    metadata = {f"key{i}": "x" for i in range(10)}
    digests = {
        hashlib.sha256(adaptor_save(base.network, tmp_path / str(i), metadata=metadata).read_bytes()).hexdigest()
        for i in range(5)
    }
    assert len(digests) == 1


def test_saving_leaves_no_temporary_file(adaptor: Path) -> None:
    assert [path.name for path in adaptor.iterdir()] == [WEIGHTS]


def test_an_adaptor_reloads_to_the_same_network(base: Base, adaptor: Path, tiny_sd: Path) -> None:
    trained(base.network, r=4, alpha=12)
    fresh = load_base(tiny_sd, torch.float32).network
    metadata = adaptor_load(fresh, adaptor, name="dog")
    assert metadata["trigger_word"] == "sks"
    assert torch.equal(prediction(fresh), prediction(base.network))
    assert not any(parameter.requires_grad for parameter in fresh.parameters())


def test_scale_multiplies_the_update_and_zero_is_the_base(base: Base, adaptor: Path, tiny_sd: Path) -> None:
    before = prediction(base.network)
    adaptor_load(base.network, adaptor, name="off", scale=0.0)
    assert torch.equal(prediction(base.network), before)
    half, whole = (load_base(tiny_sd, torch.float32).network for _ in range(2))
    adaptor_load(half, adaptor, name="a", scale=0.5)
    adaptor_load(whole, adaptor, name="a")
    assert torch.allclose(weight_delta(whole, LAYER, "a"), 2 * weight_delta(half, LAYER, "a"))


def test_two_adaptors_add_up(base: Base, adaptor: Path, tiny_sd: Path) -> None:
    adaptor_load(base.network, adaptor, name="one", scale=0.25)
    adaptor_load(base.network, adaptor, name="two", scale=0.75)
    once = load_base(tiny_sd, torch.float32).network
    adaptor_load(once, adaptor, name="a")
    summed = weight_delta(base.network, LAYER, "one") + weight_delta(base.network, LAYER, "two")
    assert torch.allclose(summed, weight_delta(once, LAYER, "a"), atol=1e-6)
    assert torch.allclose(prediction(base.network), prediction(once), atol=1e-3)


def test_pairs_of_different_ranks_and_alphas_load(base: Base, tmp_path: Path) -> None:
    other = LAYER[:-1] + "k"
    write(tmp_path, pair(LAYER, r=4) | pair(other, r=6), alpha={"unet.r": 4, "unet.lora_alpha": 8})
    adaptor_load(base.network, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    for module, rank in ((LAYER, 4), (other, 6)):
        a, b = tensors[f"unet.{module}.lora_A.weight"], tensors[f"unet.{module}.lora_B.weight"]
        assert torch.allclose(weight_delta(base.network, module, "a"), 8 / rank * b @ a)


def test_without_a_header_the_scaling_is_one_as_in_diffusers(base: Base, tmp_path: Path) -> None:
    write(tmp_path, pair(LAYER))
    adaptor_load(base.network, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    expected = tensors[f"unet.{LAYER}.lora_B.weight"] @ tensors[f"unet.{LAYER}.lora_A.weight"]
    assert torch.allclose(weight_delta(base.network, LAYER, "a"), expected)


def pair(module: str, *, r: int = 4, inputs: int = 32, outputs: int = 32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        f"unet.{module}.lora_A.weight": torch.randn((r, inputs), generator=generator),
        f"unet.{module}.lora_B.weight": torch.randn((outputs, r), generator=generator),
    }


def write(folder: Path, tensors: dict[str, Tensor], alpha: dict[str, object] | None = None) -> None:
    metadata = {"lora_adapter_metadata": json.dumps(alpha)} if alpha else None
    save_file(tensors, folder / WEIGHTS, metadata=metadata)


def renamed(old: str, new: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda tensors: {key.replace(old, new): value for key, value in tensors.items()}


def with_value(value: float) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    def change(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        next(iter(tensors.values()))[0, 0] = value
        return tensors

    return change


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (renamed("attn1", "attn9"), "attn9.to_q matches no layer of the base model"),
        (renamed("unet.", "text_encoder."), "text_encoder."),
        (renamed("unet.", ""), "expected keys that begin with unet."),
        (renamed("to_q", "to_q.lora"), "matches no layer"),
        (renamed(".lora_B.weight", ".lora_B.bias"), "lora_B.bias matches nothing"),
        (renamed(".lora_A.weight", ".hada_w1_a"), "LoHa"),
        (renamed(".lora_A.weight", ".lokr_w1"), "LoKr"),
        (renamed(".lora_A.weight", ".oft_blocks"), "OFT"),
        (renamed(".lora_A.weight", ".lora_magnitude_vector"), "DoRA"),
        (renamed(".lora_A.weight", ".lora_down.weight"), "kohya"),
        (renamed(".lora_A.weight", ".lora.down.weight"), "old diffusers"),
        (with_value(float("nan")), f"unet.{LAYER}.lora_A.weight has 1 values that are NaN or infinite"),
        (with_value(float("inf")), f"unet.{LAYER}.lora_A.weight has 1 values that are NaN or infinite"),
        (lambda tensors: dict(list(tensors.items())[:1]), "lacks its other half"),
        (lambda _: {}, "no tensor"),
        (lambda tensors: {k: v.to(torch.int64) for k, v in tensors.items()}, "expected a matrix of floats"),
        (lambda _: pair(LAYER, inputs=777), "lora_A (4, 777) and lora_B (32, 4)"),
        (lambda _: pair(LAYER, outputs=777), "base model's weight (32, 32)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    base: Base, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str
) -> None:
    before = prediction(base.network)
    write(tmp_path, change(pair(LAYER)))
    assert named in refusal(base.network, tmp_path)
    assert torch.equal(prediction(base.network), before)
    assert not getattr(base.network, "peft_config", {})


def test_a_missing_file_is_named_with_what_is_there(base: Base, tmp_path: Path) -> None:
    assert "found nothing" in refusal(base.network, tmp_path / "nowhere")
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"cos\nmkdir\n(S'x'\ntR.")
    message = refusal(base.network, tmp_path)
    assert f"expected {WEIGHTS}, found pytorch_lora_weights.bin; pickle files are never loaded" in message


@pytest.mark.parametrize(
    "content",
    [
        (2**62).to_bytes(8, "little") + b"{}",
        b"",
        b"\x08\x00\x00\x00\x00\x00\x00\x00not json",
        b"\x80\x04\x95pickle",
    ],
)
def test_a_header_that_lies_is_refused(base: Base, tmp_path: Path, content: bytes) -> None:
    (tmp_path / WEIGHTS).write_bytes(content)
    assert "is not a safetensors file" in refusal(base.network, tmp_path)


@pytest.mark.parametrize("header", ["[1]", "{", '{"unet.use_dora": true}'])
def test_metadata_that_cannot_be_followed_is_refused(base: Base, tmp_path: Path, header: str) -> None:
    save_file(pair(LAYER), tmp_path / WEIGHTS, metadata={"lora_adapter_metadata": header})
    assert refusal(base.network, tmp_path)


@pytest.mark.acceptance
def test_hostile_files_are_refused_with_their_reason(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against SD 1.x's own width of 320, which the tiny base does not have."""
    monkeypatch.chdir(tmp_path)
    unet = nn.Module()
    layer = unet
    for name in LAYER.split("."):
        child: nn.Module = nn.Linear(320, 320, bias=False) if name == "to_q" else nn.Module()
        layer.add_module(name, child)
        layer = child
    expected = {
        "header_len_huge.safetensors": "not a safetensors file",
        "lora_nan.safetensors": "NaN or infinite",
        "lora_wrong_base.safetensors": "lora_A (4, 777) and lora_B (777, 4), which do not fit the base model's weight",
        "pickle_payload.bin": "pickle files are never loaded",
    }
    for name, words in expected.items():
        folder = tmp_path / name
        folder.mkdir()
        target = folder / (WEIGHTS if name.endswith(".safetensors") else name)
        target.write_bytes((shared_data / "hostile" / "weights" / name).read_bytes())
        assert words in refusal(unet, folder)
    assert not (tmp_path / "PICKLE_EXECUTED_MARKER").exists()


@pytest.mark.acceptance
def test_the_well_formed_file_is_read_and_refused_only_by_a_base_of_another_width(
    shared_data: Path, tmp_path: Path, base: Base
) -> None:
    (tmp_path / WEIGHTS).write_bytes((shared_data / "hostile" / "weights" / "lora_ok.safetensors").read_bytes())
    assert "base model's weight (32, 32)" in refusal(base.network, tmp_path)


def test_an_adaptor_of_another_base_width_is_refused_with_both_shapes(tmp_path: Path, adaptor: Path) -> None:
    wide = load_base(build_tiny_sd(tmp_path / "wide", cross_attention_dim=48), torch.float32)
    message = refusal(wide.network, adaptor)
    assert "attn2.to_k has lora_A (4, 32)" in message and "weight (32, 48)" in message
