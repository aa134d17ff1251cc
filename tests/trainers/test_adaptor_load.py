"""An adaptor's files on a base: what is read, what is added, what is refused."""

import copy
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
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
from tests.trainers.pairs import in_blocks, random_pair, random_pairs
from tests.trainers.test_lora import prediction, trained, weight_delta
from trainers.adaptors.file import KOHYA, WEIGHTS
from trainers.adaptors.layers import layers
from trainers.adaptors.load import adaptor_load, adaptor_read
from trainers.adaptors.pairs import Pair, difference, scaled, update
from trainers.adaptors.save import adaptor_save, adaptor_write
from trainers.errors import ReasonCode, TrainerError
from trainers.models.base import Base
from trainers.models.load import load_base

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
"""One attention projection of the tiny base, 32 -> 32; SD 1.x has it too, 320 -> 320."""
FLAT = LAYER.replace(".", "_")


@pytest.fixture(scope="module")
def loaded(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def base(loaded: Base) -> Base:
    return copy.deepcopy(loaded)


@pytest.fixture(scope="module")
def adaptor(loaded: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an adaptor with r=4 and alpha=12, whose update is not zero."""
    live = copy.deepcopy(loaded)
    trained(live.network, r=4, alpha=12)
    folder = tmp_path_factory.mktemp("made") / "adaptor"
    adaptor_save(live, folder, metadata={"trigger_word": "sks"}, config={"resolution": 64, "seed": 5})
    return folder


def refusal(base: Base, folder: Path) -> str:
    with pytest.raises(TrainerError) as caught:
        adaptor_load(base, folder, name="a")
    assert caught.value.reason.code == ReasonCode.BAD_ADAPTOR
    return str(caught.value)


def test_stock_diffusers_reloads_the_file_with_its_alpha_and_draws_the_same_picture(
    tiny_sd: Path, tmp_path: Path
) -> None:
    live = load_base(tiny_sd, torch.float32)
    trained(live.network, r=4, alpha=12)
    adaptor_save(live, tmp_path, metadata={})
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
        hashlib.sha256(adaptor_save(base, tmp_path / str(i), metadata=metadata).read_bytes()).hexdigest()
        for i in range(5)
    }
    assert len(digests) == 1


def test_saving_leaves_no_temporary_file(adaptor: Path) -> None:
    assert sorted(path.name for path in adaptor.iterdir()) == [KOHYA, WEIGHTS]


def test_an_adaptor_reloads_to_the_same_network(base: Base, adaptor: Path, loaded: Base) -> None:
    trained(base.network, r=4, alpha=12)
    fresh = copy.deepcopy(loaded)
    metadata = adaptor_load(fresh, adaptor, name="dog")
    assert metadata["trigger_word"] == "sks"
    assert torch.equal(prediction(fresh.network), prediction(base.network))
    assert not any(parameter.requires_grad for parameter in fresh.network.parameters())


def test_scale_multiplies_the_update_and_zero_is_the_base(base: Base, adaptor: Path, loaded: Base) -> None:
    before = prediction(base.network)
    adaptor_load(base, adaptor, name="off", scale=0.0)
    assert torch.equal(prediction(base.network), before)
    half, whole = (copy.deepcopy(loaded) for _ in range(2))
    adaptor_load(half, adaptor, name="a", scale=0.5)
    adaptor_load(whole, adaptor, name="a")
    assert torch.allclose(weight_delta(whole.network, LAYER, "a"), 2 * weight_delta(half.network, LAYER, "a"))


def test_two_adaptors_add_up(base: Base, adaptor: Path, loaded: Base) -> None:
    adaptor_load(base, adaptor, name="one", scale=0.25)
    adaptor_load(base, adaptor, name="two", scale=0.75)
    once = copy.deepcopy(loaded)
    adaptor_load(once, adaptor, name="a")
    summed = weight_delta(base.network, LAYER, "one") + weight_delta(base.network, LAYER, "two")
    assert torch.allclose(summed, weight_delta(once.network, LAYER, "a"), atol=1e-6)
    assert torch.allclose(prediction(base.network), prediction(once.network), atol=1e-3)


def test_pairs_of_different_ranks_and_alphas_load(base: Base, tmp_path: Path) -> None:
    other = LAYER[:-1] + "k"
    write(tmp_path, pair(LAYER, r=4) | pair(other, r=6), alpha={"unet.r": 4, "unet.lora_alpha": 8})
    adaptor_load(base, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    for module, rank in ((LAYER, 4), (other, 6)):
        a, b = tensors[f"unet.{module}.lora_A.weight"], tensors[f"unet.{module}.lora_B.weight"]
        assert torch.allclose(weight_delta(base.network, module, "a"), 8 / rank * b @ a)


def test_without_a_header_the_scaling_is_one_as_in_diffusers(base: Base, tmp_path: Path) -> None:
    write(tmp_path, pair(LAYER))
    adaptor_load(base, tmp_path, name="a")
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


def test_a_missing_file_is_named_with_what_is_there(base: Base, tmp_path: Path) -> None:
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
def test_metadata_that_cannot_be_followed_is_refused(base: Base, tmp_path: Path, header: str) -> None:
    save_file(pair(LAYER), tmp_path / WEIGHTS, metadata={"lora_adapter_metadata": header})
    assert refusal(base, tmp_path)


@pytest.mark.acceptance
def test_hostile_files_are_refused_with_their_reason(
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


def flat(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `pair` with kohya's names."""
    named = {key.replace(f"unet.{LAYER}", f"lora_unet_{FLAT}"): value for key, value in tensors.items()}
    names = {".lora_A.weight": ".lora_down.weight", ".lora_B.weight": ".lora_up.weight"}
    return {key.replace(old, new): v for key, v in named.items() for old, new in names.items() if old in key}


@pytest.mark.parametrize(("alpha", "scaling"), [(None, 1.0), (torch.tensor(2), 0.5), (torch.tensor([12.0]), 3.0)])
def test_a_foreign_kohya_file_is_read_with_its_alpha(
    base: Base, tmp_path: Path, alpha: Tensor | None, scaling: float
) -> None:
    tensors = flat(pair(LAYER)) | ({f"lora_unet_{FLAT}.alpha": alpha} if alpha is not None else {})
    save_file(tensors, tmp_path / "from elsewhere.safetensors")
    adaptor_load(base, tmp_path, name="a")
    expected = tensors[f"lora_unet_{FLAT}.lora_up.weight"] @ tensors[f"lora_unet_{FLAT}.lora_down.weight"]
    assert torch.allclose(weight_delta(base.network, LAYER, "a"), scaling * expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"unet.{LAYER}.lora_A", f"unet.{LAYER}.lora.down"),
        (f"unet.{LAYER}.lora_A", f"unet.{LAYER.replace('.to_q', '.processor.to_q_lora')}.down"),
    ],
)
def test_files_of_earlier_versions_of_diffusers_are_read(base: Base, tmp_path: Path, old: str, new: str) -> None:
    tensors = {k.replace(old, new).replace(old[:-1] + "B", new[:-4] + "up"): v for k, v in pair(LAYER).items()}
    assert not any("lora_A" in key or "lora_B" in key for key in tensors)
    write(tmp_path, tensors)
    found = adaptor_read(base, tmp_path).pairs["unet"][LAYER]
    assert torch.equal(found.down, pair(LAYER)[f"unet.{LAYER}.lora_A.weight"])


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
    ("entry", "said", "title"),
    [
        ("ss_base_model_version", "sdxl_base_v1-0", "Stable Diffusion XL"),
        ("modelspec.architecture", "flux-1-dev/lora", "Flux.1"),
        ("modelspec.architecture", "stable-diffusion-v2-768-v/lora", "Stable Diffusion 2.x"),
    ],
)
def test_a_file_that_says_another_family_is_refused_with_both(
    base: Base, tmp_path: Path, entry: str, said: str, title: str
) -> None:
    save_file(flat(pair(LAYER)), tmp_path / KOHYA, metadata={entry: said})
    message = refusal(base, tmp_path)
    assert f"{entry} = {said}" in message and title in message and "Stable Diffusion 1.x" in message


def test_of_several_unknown_files_none_is_guessed(base: Base, tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file(pair(LAYER), tmp_path / name)
    assert "found a.safetensors, b.safetensors" in refusal(base, tmp_path)


def test_rslora_scales_by_the_square_root_of_the_rank(base: Base, tmp_path: Path) -> None:
    write(tmp_path, pair(LAYER), alpha={"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True})
    adaptor_load(base, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    product = tensors[f"unet.{LAYER}.lora_B.weight"] @ tensors[f"unet.{LAYER}.lora_A.weight"]
    assert torch.allclose(weight_delta(base.network, LAYER, "a"), 4 * product)


@pytest.mark.parametrize("layer", [nn.Linear(12, 8), nn.Conv2d(3, 8, 3)])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.5, -0.5])
def test_scaling_a_dora_pair_scales_all_that_it_adds(layer: Any, scale: float) -> None:
    pair = random_pair(layer, dora=True)
    found = difference(scaled(pair, scale, layer.weight), layer.weight)
    assert torch.allclose(found, scale * difference(pair, layer.weight), atol=1e-6)


def test_a_dora_difference_is_the_formula_of_the_paper() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    pair = Pair(torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0], [0.0]]), 1.0, torch.tensor([10.0, 2.0]))
    assert torch.allclose(difference(pair, weight) + weight, torch.tensor([[6.0, 8.0], [0.0, 2.0]]))


def test_dora_on_some_layers_only_is_refused(base: Base, tmp_path: Path) -> None:
    other = LAYER[:-1] + "k"
    write(tmp_path, pair(LAYER) | pair(other) | {f"unet.{LAYER}.lora_magnitude_vector": torch.ones(32)})
    assert f"unet.{other} has no DoRA magnitude" in refusal(base, tmp_path)


def test_what_an_adaptor_adds_with_dora_and_scale_is_what_the_network_computes(base: Base, tmp_path: Path) -> None:
    pairs = random_pairs(base, in_blocks, dora=True)
    adaptor_write(base, tmp_path, pairs, metadata={})
    merged = copy.deepcopy(base)
    with torch.no_grad():
        for name, pair_ in pairs["unet"].items():
            weight = layers(merged.network)[name].weight
            weight.add_(0.5 * difference(pair_, weight))
    adaptor_load(base, tmp_path, name="a", scale=0.5)
    assert torch.allclose(prediction(base.network), prediction(merged.network), atol=1e-4)


def test_ema_weights_stand_in_for_the_live_ones(base: Base, tmp_path: Path) -> None:
    trained(base.network)
    state = {f"unet.{LAYER}.lora_A.weight": torch.ones(4, 32), f"unet.{LAYER}.lora_B.weight": torch.ones(32, 4)}
    adaptor_save(base, tmp_path, metadata={}, state=state)
    assert torch.equal(update(adaptor_read(base, tmp_path).pairs["unet"][LAYER]), torch.full((32, 32), 8.0))


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_the_kohya_header_says_what_the_training_was(base: Base, tmp_path: Path) -> None:
    metadata = {"name": "dog", "trigger_word": "sks dog", "base_name": "shapes@1", "prediction_type": "epsilon"}
    config = {"resolution": 64, "seed": 5, "learning_rate": 1e-4, "optimizer": "lion", "max_train_steps": None}
    adaptor_write(base, tmp_path, random_pairs(base, in_blocks), metadata=metadata, config=config)
    said = header(tmp_path / KOHYA)
    assert (said["ss_network_dim"], said["ss_network_alpha"], said["ss_network_module"]) == ("4", "8", "networks.lora")
    assert (said["ss_seed"], said["ss_learning_rate"], said["ss_optimizer"]) == ("5", "0.0001", "lion")
    assert said["ss_base_model_version"] == "sd_v1" and said["ss_v_parameterization"] == "False"
    assert json.loads(said["ss_tag_frequency"]) == {"dataset": {"sks dog": 1}}
    assert json.loads(said["ss_network_args"]) == {"conv_alpha": "8", "conv_dim": "4"}
    assert (
        said["modelspec.trigger_phrase"] == "sks dog" and said["modelspec.architecture"] == "stable-diffusion-v1/lora"
    )
    assert "ss_max_train_steps" not in said and "/" not in said["ss_sd_model_name"]


def test_the_hashes_are_those_that_sd_scripts_works_out(adaptor: Path) -> None:
    content = (adaptor / KOHYA).read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    said = header(adaptor / KOHYA)
    assert said["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert said["modelspec.hash_sha256"] == f"0x{said['sshs_model_hash']}"


def test_no_metadata_leaves_out_what_tells_of_the_training(base: Base, tmp_path: Path) -> None:
    pairs = random_pairs(base, in_blocks)
    metadata = {"base_sha256": "0" * 64, "trigger_word": "sks"}
    adaptor_write(base, tmp_path, pairs, metadata=metadata, config={"no_metadata": True, "seed": 5})
    assert header(tmp_path / KOHYA) == {"base_sha256": "0" * 64, "format": "pt"}


def test_every_matrix_of_a_file_begins_at_64_bytes(adaptor: Path) -> None:
    for name in (WEIGHTS, KOHYA):
        content = (adaptor / name).read_bytes()
        size = 8 + int.from_bytes(content[:8], "little")
        entries = json.loads(content[8:size])
        matrices = [e["data_offsets"][0] for e in entries.values() if len(e.get("shape", [])) > 1]
        assert matrices and not any((size + first) % 64 for first in matrices)
