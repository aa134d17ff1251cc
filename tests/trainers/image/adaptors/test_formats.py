"""Both files of an adaptor, read by stock diffusers and by ourselves."""

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.loaders.single_file_utils import convert_sd3_transformer_checkpoint_to_diffusers
from numpy.typing import NDArray
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny_flux import build_tiny_flux
from tests.tiny_sd import build_tiny_sd
from tests.tiny_sd2 import build_tiny_sd2
from tests.tiny_sd3 import build_tiny_sd3
from tests.tiny_sdxl import build_tiny_sdxl
from tests.tolerance import PRODUCT, assert_near, assert_same_image
from tests.trainers.image.adaptors.pairs import in_blocks, pairs_equal, random_pair, random_pairs
from trainers.image.adaptors.apply import adaptor_load
from trainers.image.adaptors.file import KOHYA, WEIGHTS, adaptor_read, adaptor_write
from trainers.image.adaptors.pairs import Pairs, layers, plain_name, update
from trainers.image.models.base import Base
from trainers.image.models.families import load_base

pytestmark = pytest.mark.numeric

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd1": build_tiny_sd,
    "sd2": build_tiny_sd2,
    "sdxl": build_tiny_sdxl,
    "sd3": partial(build_tiny_sd3, version="3.5"),
    "flux": build_tiny_flux,
}
STOCK: dict[str, Any] = {
    "sd1": StableDiffusionPipeline,
    "sd2": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
    "flux": FluxPipeline,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    built: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in built:
            built[family] = BUILDERS[family](tmp_path_factory.mktemp(family))
        return built[family]

    return folder


@pytest.fixture(scope="module")
def bases(folders: Callable[[str], Path]) -> Callable[[str], Base]:
    """A fresh base of a family, as often as it is asked for."""
    built: dict[str, Base] = {}

    def fresh(family: str) -> Base:
        if family not in built:
            built[family] = load_base(folders(family), torch.float32)
        return copy.deepcopy(built[family])

    return fresh


def mixed_pairs(base: Base, **kwargs: Any) -> Pairs:
    """Every kind of layer: linear ones, convolutions of another rank with the same scaling, text encoders."""
    linear = random_pairs(base, lambda name, layer: in_blocks(name, layer) and isinstance(layer, nn.Linear), **kwargs)
    conv = random_pairs(base, lambda name, layer: in_blocks(name, layer) and isinstance(layer, nn.Conv2d), **kwargs)
    if base.family in ("sd1", "sd2", "sdxl"):
        small = random_pairs(base, lambda n, m: in_blocks(n, m) and isinstance(m, nn.Conv2d), rank=2, alpha=4, **kwargs)
        conv[base.network_part] = small[base.network_part]
    return linear | {base.network_part: linear[base.network_part] | conv[base.network_part]}


def stock(folders: Callable[[str], Path], family: str, adaptor: Path, file: str) -> Any:
    pipeline = STOCK[family].from_pretrained(folders(family), use_safetensors=True)
    pipeline.load_lora_weights(adaptor, weight_name=file, adapter_name="stock")
    return pipeline


def image(pipeline: Any) -> NDArray[np.float32]:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "np", "generator": generator}
    drawn: NDArray[np.float32] = pipeline("a dog", **size).images[0]
    return drawn


def deltas(root: nn.Module) -> dict[str, Tensor]:
    """What the one adaptor on `root` adds to each weight, as peft itself works it out."""
    actual = [(name, module) for name, module in root.named_modules() if isinstance(module, LoraLayer)]
    return {plain_name(n): m.get_delta_weight(next(iter(m.lora_A))) for n, m in actual}  # type: ignore[attr-defined]


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_diffusers_draws_the_same_image_from_either_file(
    family: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    base = load_base(folders(family), torch.float32)  # a copy's weights lie elsewhere, which can change last bits
    plain = image(base.pipeline())
    adaptor_write(base, tmp_path, mixed_pairs(base, text=True), metadata={})
    adaptor_load(base, tmp_path, name="ours")
    ours = image(base.pipeline())
    assert np.abs(ours - plain).max() > 0.01
    first, second = (image(stock(folders, family, tmp_path, file)) for file in (WEIGHTS, KOHYA))
    assert_same_image(first, second)
    assert_same_image(first, ours)


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sd3", "flux"])
def test_our_reader_restores_every_value_from_either_file(
    family: str, bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases(family)
    pairs = mixed_pairs(base, text=True)
    adaptor_write(base, tmp_path, pairs, metadata={})
    assert pairs_equal(adaptor_read(base, tmp_path).pairs, pairs)
    (tmp_path / WEIGHTS).unlink()
    assert pairs_equal(adaptor_read(base, tmp_path).pairs, pairs)


@pytest.mark.parametrize("family", ["sd1", "flux"])
def test_dora_is_restored_from_either_file_and_diffusers_reads_the_first(
    family: str, folders: Callable[[str], Path], bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases(family)
    pairs = mixed_pairs(base, dora=True, text=family == "sd1")
    adaptor_write(base, tmp_path, pairs, metadata={})
    base = load_base(folders(family), torch.float32)
    adaptor_load(base, tmp_path, name="ours")
    assert_same_image(image(stock(folders, family, tmp_path, WEIGHTS)), image(base.pipeline()))
    (tmp_path / WEIGHTS).unlink()
    assert pairs_equal(adaptor_read(bases(family), tmp_path).pairs, pairs)


def test_diffusers_adds_the_same_to_every_weight_of_sd2_from_either_file(
    folders: Callable[[str], Path], bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases("sd2")
    pairs = mixed_pairs(base, text=True)
    adaptor_write(base, tmp_path, pairs, metadata={})
    for file in (WEIGHTS, KOHYA):
        pipeline = stock(folders, "sd2", tmp_path, file)
        for part in ("unet", "text_encoder"):
            actual = deltas(getattr(pipeline, part))
            assert actual.keys() == pairs[part].keys()
            for name, pair in pairs[part].items():
                assert_near(actual[name], update(pair), PRODUCT)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_diffusers_reads_its_own_file_of_a_transformer_and_its_text_encoders(
    family: str, folders: Callable[[str], Path], bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases(family)
    pairs = random_pairs(base, in_blocks, text=True)
    adaptor_write(base, tmp_path, pairs, metadata={})
    pipeline = stock(folders, family, tmp_path, WEIGHTS)
    for part, by_layer in pairs.items():
        actual = deltas(getattr(pipeline, part))
        assert actual.keys() == by_layer.keys()
        for name, pair in by_layer.items():
            assert_near(actual[name], update(pair), PRODUCT)


def test_the_kohya_names_of_sd3_are_those_of_the_original_checkpoint(
    bases: Callable[[str], Base], tmp_path: Path
) -> None:
    """diffusers loads no kohya file of SD3, but it converts the original checkpoint: with updates in its place."""
    base = bases("sd3")
    pairs = random_pairs(base, lambda name, _: not name.startswith("pos_embed"))
    adaptor_write(base, tmp_path, pairs, metadata={})
    tensors = load_file(tmp_path / KOHYA)
    original = {key.removesuffix(".alpha"): None for key in tensors if key.endswith(".alpha")}
    dotted = {name: path for path in _sd3_paths() for name in [f"lora_unet_{path.replace('.', '_')}"]}
    assert set(original) <= set(dotted)
    checkpoint = {f"{dotted[name]}.weight": _kohya_update(tensors, name) for name in original}
    absent = {key: torch.zeros(6, 6) for key in _sd3_keys() if key not in checkpoint}
    converted = convert_sd3_transformer_checkpoint_to_diffusers(checkpoint | absent)  # type: ignore[no-untyped-call]
    for name, pair in pairs["transformer"].items():
        assert_near(converted[f"{name}.weight"], update(pair), PRODUCT)


def _sd3_paths() -> list[str]:
    """Layers of an original SD3.5 checkpoint of 2 blocks, with two attentions in the first."""
    block = [f"{half}_block.{name}" for half in ("x", "context") for name in ("attn.qkv", "attn.proj", "mlp.fc1")]
    block += [f"{half}_block.{name}" for half in ("x", "context") for name in ("mlp.fc2", "adaLN_modulation.1")]
    second = ["x_block.attn2.qkv", "x_block.attn2.proj"]
    blocks = [f"joint_blocks.{i}.{name}" for i in range(2) for name in block + (second if i == 0 else [])]
    outer = ["t_embedder.mlp.0", "t_embedder.mlp.2", "y_embedder.mlp.0", "y_embedder.mlp.2", "context_embedder"]
    return [*blocks, *outer, "final_layer.linear", "final_layer.adaLN_modulation.1", "x_embedder.proj"]


def _sd3_keys() -> list[str]:
    """All that the converter takes from a checkpoint of that shape."""
    norms = [
        f"joint_blocks.{i}.{half}_block.{attn}.ln_{k}.weight"
        for i in range(2)
        for half in ("x", "context")
        for attn in (("attn", "attn2") if i == 0 else ("attn",))
        for k in ("q", "k")
    ]
    return [f"{path}.{kind}" for path in _sd3_paths() for kind in ("weight", "bias")] + norms + ["pos_embed"]


def _kohya_update(tensors: dict[str, Tensor], name: str) -> Tensor:
    down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
    return up @ down * (tensors[f"{name}.alpha"] / down.shape[0])


def test_diffusers_finds_every_pair_of_flux_in_the_fused_layers(tmp_path: Path) -> None:
    """At Flux's own width, which diffusers' converter takes for granted; the base is only shapes."""
    transformer: Any = FluxTransformer2DModel
    with torch.device("meta"):
        network = transformer(num_layers=1, num_single_layers=1, guidance_embeds=True)
    base = Base("flux", network, None, (), (), {}, FluxPipeline)
    # attention alone in the single block: its linear1 then has no pair for the rows of the feed-forward
    pairs = random_pairs(base, lambda name, _: "block" in name and ("single" not in name or ".attn." in name))
    adaptor_write(base, tmp_path, pairs, metadata={})
    pipeline: Any = FluxPipeline
    state = pipeline.lora_state_dict(tmp_path, weight_name=KOHYA)
    filled = "transformer.single_transformer_blocks.0.proj_mlp"
    actual = {key.split(".lora_")[0] for key in state}
    assert actual == {f"transformer.{name}" for name in pairs["transformer"]} | {filled}
    assert not state[f"{filled}.lora_B.weight"].any()
    for name, pair in pairs["transformer"].items():
        down, up = (state[f"transformer.{name}.lora_{half}.weight"] for half in "AB")
        assert torch.equal(up, pair.up) and torch.equal(down, pair.down * pair.scaling), name


def test_a_fused_pair_from_elsewhere_is_split_by_its_rows(bases: Callable[[str], Base], tmp_path: Path) -> None:
    """As Flux trainers write them: one pair for query, key and value, with the dotted names of ComfyUI."""
    base = bases("flux")
    block = "single_transformer_blocks.0"
    parts = [f"{block}.attn.to_q", f"{block}.attn.to_k", f"{block}.attn.to_v", f"{block}.proj_mlp"]
    rows = [layers(base.network)[name].out_features for name in parts]
    down, up = torch.randn(4, 32), torch.randn(sum(rows), 4)
    named = {"diffusion_model.single_blocks.0.linear1.lora_A.weight": down}
    save_file(named | {"diffusion_model.single_blocks.0.linear1.lora_B.weight": up}, tmp_path / "x.safetensors")
    actual = adaptor_read(base, tmp_path).pairs["transformer"]
    assert torch.equal(torch.cat([actual[name].up for name in parts]), up)
    assert all(torch.equal(actual[name].down, down) and actual[name].scaling == 1 for name in parts)


@pytest.mark.parametrize(
    ("family", "prediction", "architecture", "module"),
    [
        ("sd1", "epsilon", "stable-diffusion-v1", "networks.lora"),
        ("sd2", "epsilon", "stable-diffusion-v2-512", "networks.lora"),
        ("sd2", "v_prediction", "stable-diffusion-v2-768-v", "networks.lora"),
        ("sdxl", "epsilon", "stable-diffusion-xl-v1-base", "networks.lora"),
        ("sd3", "", "stable-diffusion-3", "networks.lora_sd3"),
        ("flux", "", "flux-1-dev", "networks.lora_flux"),
        ("schnell", "", "flux-1-schnell", "networks.lora_flux"),
    ],
)
def test_the_header_names_each_family_as_sd_scripts_does(
    bases: Callable[[str], Base], tmp_path: Path, family: str, prediction: str, architecture: str, module: str
) -> None:
    base = bases("flux" if family == "schnell" else family)
    if base.family == "flux":
        base.network.register_to_config(guidance_embeds=family == "flux")
    metadata = {"prediction_type": prediction} if prediction else {}
    adaptor_write(base, tmp_path, random_pairs(base, in_blocks), metadata=metadata)
    with safe_open(tmp_path / KOHYA, framework="pt") as file:
        header = file.metadata()
    assert (header["modelspec.architecture"], header["ss_network_module"]) == (f"{architecture}/lora", module)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_file_with_onetrainers_names_is_read(bases: Callable[[str], Base], tmp_path: Path, family: str) -> None:
    """lora_transformer_ and diffusers' own names; no other key tells that the file is of kohya's kind."""
    base = bases(family)
    pairs = random_pairs(base, lambda name, layer: in_blocks(name, layer) and isinstance(layer, nn.Linear))
    tensors = {
        f"lora_transformer_{name.replace('.', '_')}.{end}": value.contiguous()
        for name, pair in pairs["transformer"].items()
        for end, value in (
            ("lora_down.weight", pair.down),
            ("lora_up.weight", pair.up),
            ("alpha", torch.tensor(pair.alpha)),
        )
    }
    save_file(tensors, tmp_path / "onetrainer.safetensors")
    assert pairs_equal(adaptor_read(base, tmp_path).pairs, {"transformer": pairs["transformer"]})


def test_pairs_of_unequal_rank_and_scaling_keep_their_updates_when_fused(
    bases: Callable[[str], Base], tmp_path: Path
) -> None:
    base = bases("sd3")
    block = "transformer_blocks.0.attn."
    chosen = {f"{block}to_q": (4, 8.0), f"{block}to_v": (2, 6.0)}
    base_layers = layers(base.network)
    pairs = {"transformer": {n: random_pair(base_layers[n], rank=r, alpha=a) for n, (r, a) in chosen.items()}}
    adaptor_write(base, tmp_path, pairs, metadata={})
    (tmp_path / WEIGHTS).unlink()
    actual = adaptor_read(base, tmp_path).pairs["transformer"]
    assert actual.keys() == chosen.keys()
    assert all(torch.allclose(update(actual[n]), update(pairs["transformer"][n]), atol=1e-6) for n in chosen)


def test_a_layer_whose_name_ends_another_layers_name_is_changed_alone(
    bases: Callable[[str], Base], tmp_path: Path
) -> None:
    """Flux has a proj_out, and one in each single block."""
    base = bases("flux")
    pair = random_pair(layers(base.network)["proj_out"])
    adaptor_write(base, tmp_path, {"transformer": {"proj_out": pair}}, metadata={})
    adaptor_load(base, tmp_path, name="a")
    actual = deltas(base.network)
    assert actual.keys() == {"proj_out"} and torch.equal(actual["proj_out"], update(pair))
