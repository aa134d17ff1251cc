"""An adaptor's files that do not fit a base or lie are refused by name, and the base stays as it was."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.tiny_sd import build_tiny_sd
from tests.trainers.core.test_lora import prediction
from tests.trainers.image.adaptors.scene import FLAT, LAYER, adaptor_make, flat, pair, write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.adaptors.apply import adaptor_load
from trainers.image.adaptors.file import KOHYA, WEIGHTS
from trainers.image.models.base import Base
from trainers.image.models.families import load_base


@pytest.fixture(scope="module")
def loaded(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def base(loaded: Base) -> Base:
    return copy.deepcopy(loaded)


@pytest.fixture(scope="module")
def adaptor(loaded: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adaptor_make(loaded, tmp_path_factory.mktemp("made") / "adaptor")


def refusal(base: Base, folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        adaptor_load(base, folder, name="a")
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR
    return str(caught.value)


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
        (renamed(".lora_B.weight", ".lora_B.bias"), "LoRA with bias"),
        (renamed(".lora_A.weight", ".hada_w1_a"), "LoHa"),
        (renamed(".lora_A.weight", ".lokr_w1"), "LoKr"),
        (renamed(".lora_A.weight", ".oft_blocks"), "OFT"),
        (renamed(".lora_A.weight", ".lora_magnitude_vector"), "lacks its other half"),
        (renamed(".lora_A.weight", ".lora_down.weight"), "lacks its other half"),
        (renamed(".lora_A.weight", ".diff"), "full difference"),
        (renamed(f"unet.{LAYER}.lora_", "unet.lora_"), "matches no layer"),
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
    assert named in refusal(base, tmp_path)
    assert torch.equal(prediction(base.network), before)
    assert not getattr(base.network, "peft_config", {})


def test_a_missing_file_is_reported_with_the_existing_ones(base: Base, tmp_path: Path) -> None:
    assert "found nothing" in refusal(base, tmp_path / "nowhere")
    (tmp_path / "pytorch_lora_weights.bin").write_bytes(b"cos\nmkdir\n(S'x'\ntR.")
    message = refusal(base, tmp_path)
    assert f"expected {WEIGHTS} or one other .safetensors file, found pytorch_lora_weights.bin; " in message
    assert "pickle files are never loaded" in message


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
    assert "is not a safetensors file" in refusal(base, tmp_path)


@pytest.mark.parametrize("header", ["[1]", "{", '{"unet.use_dora": true}'])
def test_invalid_adaptor_metadata_is_refused(base: Base, tmp_path: Path, header: str) -> None:
    save_file(pair(LAYER), tmp_path / WEIGHTS, metadata={"lora_adapter_metadata": header})
    assert refusal(base, tmp_path)


@pytest.mark.acceptance
def test_hostile_files_are_refused_with_a_reason(
    shared_data: Path, tmp_path: Path, base: Base, monkeypatch: pytest.MonkeyPatch
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
        assert words in refusal(replace(base, network=unet), folder)
    assert not (tmp_path / "PICKLE_EXECUTED_MARKER").exists()


@pytest.mark.acceptance
def test_the_well_formed_file_is_read_and_refused_only_by_a_base_of_another_width(
    shared_data: Path, tmp_path: Path, base: Base
) -> None:
    (tmp_path / WEIGHTS).write_bytes((shared_data / "hostile" / "weights" / "lora_ok.safetensors").read_bytes())
    assert "base model's weight (32, 32)" in refusal(base, tmp_path)


def test_an_adaptor_of_another_base_width_is_refused_with_both_shapes(tmp_path: Path, adaptor: Path) -> None:
    wide = load_base(build_tiny_sd(tmp_path / "wide", cross_attention_dim=48), torch.float32)
    message = refusal(wide, adaptor)
    assert "attn2.to_k has lora_A (4, 32)" in message and "weight (32, 48)" in message


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (renamed("attn1", "attn9"), f"lora_unet_{FLAT.replace('attn1', 'attn9')} matches no layer"),
        (renamed(".lora_up.weight", ".lora_up.bias"), "lora_up.bias matches nothing"),
        (renamed(".lora_down.", ".lora_mid."), "Tucker"),
        (lambda tensors: dict(list(tensors.items())[:1]), "lacks its other half"),
        (lambda tensors: tensors | {f"lora_unet_{FLAT}.alpha": torch.ones(3)}, "expected one number"),
        (lambda tensors: tensors | {f"lora_unet_{FLAT}.dora_scale": torch.ones(1, 32)}, "along the inputs"),
        (lambda tensors: {k: torch.cat([v, v]) for k, v in tensors.items()}, "do not go together"),
    ],
)
def test_a_kohya_file_that_does_not_fit_is_refused_by_name(
    base: Base, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], named: str
) -> None:
    save_file(change(flat(pair(LAYER))), tmp_path / KOHYA)
    assert named in refusal(base, tmp_path)


@pytest.mark.parametrize(
    ("entry", "text", "title"),
    [
        ("ss_base_model_version", "sdxl_base_v1-0", "Stable Diffusion XL"),
        ("modelspec.architecture", "flux-1-dev/lora", "Flux.1"),
        ("modelspec.architecture", "stable-diffusion-v2-768-v/lora", "Stable Diffusion 2.x"),
    ],
)
def test_a_file_of_another_family_is_refused_with_both(
    base: Base, tmp_path: Path, entry: str, text: str, title: str
) -> None:
    save_file(flat(pair(LAYER)), tmp_path / KOHYA, metadata={entry: text})
    message = refusal(base, tmp_path)
    assert f"{entry} = {text}" in message and title in message and "Stable Diffusion 1.x" in message


def test_several_unknown_files_are_refused(base: Base, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(pair(LAYER), tmp_path / name)
    assert "found a.safetensors, b.safetensors" in refusal(base, tmp_path)


def test_dora_on_some_layers_only_is_refused(base: Base, tmp_path: Path) -> None:
    other = LAYER[:-1] + "k"
    write(tmp_path, pair(LAYER) | pair(other) | {f"unet.{LAYER}.lora_magnitude_vector": torch.ones(32)})
    assert f"unet.{other} has no DoRA magnitude" in refusal(base, tmp_path)
