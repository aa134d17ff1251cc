"""An adaptor's files on a base: what is written, what is read, what it adds."""

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tolerance import PRODUCT, assert_near, assert_same_image
from tests.trainers.core.test_lora import prediction, trained, weight_delta
from tests.trainers.image.adaptors.pairs import in_blocks, random_pair, random_pairs
from tests.trainers.image.adaptors.scene import FLAT, LAYER, adaptor_make, flat, pair, write
from trainers.image.adaptors.apply import adaptor_load
from trainers.image.adaptors.file import KOHYA, WEIGHTS, adaptor_read, adaptor_save, adaptor_write
from trainers.image.adaptors.pairs import Pair, difference, layers, scaled
from trainers.image.models.base import Base
from trainers.image.models.families import load_base

pytestmark = pytest.mark.numeric


@pytest.fixture(scope="module")
def loaded(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


@pytest.fixture
def base(loaded: Base) -> Base:
    return copy.deepcopy(loaded)


@pytest.fixture(scope="module")
def adaptor(loaded: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adaptor_make(loaded, tmp_path_factory.mktemp("made") / "adaptor")


def test_stock_diffusers_reloads_the_file_with_its_alpha_and_draws_the_same_image(
    tiny_sd: Path, tmp_path: Path
) -> None:
    live = load_base(tiny_sd, torch.float32)
    trained(live.network, r=4, alpha=12)
    adaptor_save(live, tmp_path, metadata={})
    live.network.eval()
    stock: Any = StableDiffusionPipeline.from_pretrained(tiny_sd, use_safetensors=True)  # type: ignore[no-untyped-call]
    stock.load_lora_weights(tmp_path, weight_name=WEIGHTS, adapter_name="stock")
    assert_near(weight_delta(stock.unet, LAYER, "stock"), weight_delta(live.network, LAYER, "default"), PRODUCT)
    assert_same_image(image(stock), image(live.pipeline()))
    with pytest.raises(AssertionError, match="of 255"):
        assert_same_image(image(stock), image(load_base(tiny_sd, torch.float32).pipeline()))


def image(pipeline: Any) -> Image.Image:
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(3)
    drawn: Image.Image = pipeline("a dog", num_inference_steps=2, generator=generator).images[0]
    return drawn


def test_the_file_has_diffusers_keys_and_a_header(adaptor: Path) -> None:
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
    half, full = (copy.deepcopy(loaded) for _ in range(2))
    adaptor_load(half, adaptor, name="a", scale=0.5)
    adaptor_load(full, adaptor, name="a")
    assert_near(weight_delta(full.network, LAYER, "a"), 2 * weight_delta(half.network, LAYER, "a"), PRODUCT)


def test_two_adaptors_add_up(base: Base, adaptor: Path, loaded: Base) -> None:
    adaptor_load(base, adaptor, name="one", scale=0.25)
    adaptor_load(base, adaptor, name="two", scale=0.75)
    once = copy.deepcopy(loaded)
    adaptor_load(once, adaptor, name="a")
    summed = weight_delta(base.network, LAYER, "one") + weight_delta(base.network, LAYER, "two")
    assert_near(summed, weight_delta(once.network, LAYER, "a"), PRODUCT)
    assert torch.allclose(prediction(base.network), prediction(once.network), atol=1e-3)


def test_pairs_of_different_ranks_and_alphas_load(base: Base, tmp_path: Path) -> None:
    other = LAYER[:-1] + "k"
    write(tmp_path, pair(LAYER, r=4) | pair(other, r=6), alpha={"unet.r": 4, "unet.lora_alpha": 8})
    adaptor_load(base, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    for module, rank in ((LAYER, 4), (other, 6)):
        a, b = tensors[f"unet.{module}.lora_A.weight"], tensors[f"unet.{module}.lora_B.weight"]
        assert_near(weight_delta(base.network, module, "a"), 8 / rank * b @ a, PRODUCT)


def test_without_a_header_the_scaling_is_one_as_in_diffusers(base: Base, tmp_path: Path) -> None:
    write(tmp_path, pair(LAYER))
    adaptor_load(base, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    expected = tensors[f"unet.{LAYER}.lora_B.weight"] @ tensors[f"unet.{LAYER}.lora_A.weight"]
    assert_near(weight_delta(base.network, LAYER, "a"), expected, PRODUCT)


@pytest.mark.parametrize(("alpha", "scaling"), [(None, 1.0), (torch.tensor(2), 0.5), (torch.tensor([12.0]), 3.0)])
def test_a_foreign_kohya_file_is_read_with_its_alpha(
    base: Base, tmp_path: Path, alpha: Tensor | None, scaling: float
) -> None:
    tensors = flat(pair(LAYER)) | ({f"lora_unet_{FLAT}.alpha": alpha} if alpha is not None else {})
    save_file(tensors, tmp_path / "from elsewhere.safetensors")
    adaptor_load(base, tmp_path, name="a")
    expected = tensors[f"lora_unet_{FLAT}.lora_up.weight"] @ tensors[f"lora_unet_{FLAT}.lora_down.weight"]
    assert_near(weight_delta(base.network, LAYER, "a"), scaling * expected, PRODUCT)


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
    actual = adaptor_read(base, tmp_path).pairs["unet"][LAYER]
    assert torch.equal(actual.down, pair(LAYER)[f"unet.{LAYER}.lora_A.weight"])


def test_rslora_scales_by_the_square_root_of_the_rank(base: Base, tmp_path: Path) -> None:
    write(tmp_path, pair(LAYER), alpha={"unet.r": 4, "unet.lora_alpha": 8, "unet.use_rslora": True})
    adaptor_load(base, tmp_path, name="a")
    tensors = load_file(tmp_path / WEIGHTS)
    product = tensors[f"unet.{LAYER}.lora_B.weight"] @ tensors[f"unet.{LAYER}.lora_A.weight"]
    assert_near(weight_delta(base.network, LAYER, "a"), 4 * product, PRODUCT)


@pytest.mark.parametrize("layer", [nn.Linear(12, 8), nn.Conv2d(3, 8, 3)])
@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 1.5, -0.5])
def test_scaling_a_dora_pair_scales_its_whole_update(layer: Any, scale: float) -> None:
    pair = random_pair(layer, dora=True)
    actual = difference(scaled(pair, scale, layer.weight), layer.weight)
    assert_near(actual, scale * difference(pair, layer.weight), PRODUCT)


def test_a_dora_difference_is_the_formula_of_the_paper() -> None:
    weight = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    pair = Pair(torch.tensor([[0.0, 4.0]]), torch.tensor([[1.0], [0.0]]), 1.0, torch.tensor([10.0, 2.0]))
    assert_near(difference(pair, weight) + weight, torch.tensor([[6.0, 8.0], [0.0, 2.0]]), PRODUCT)


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


def header(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata())


def test_the_kohya_header_describes_the_training(base: Base, tmp_path: Path) -> None:
    metadata = {"name": "dog", "trigger_word": "sks dog", "base_name": "shapes@1", "prediction_type": "epsilon"}
    config = {"resolution": 64, "seed": 5, "learning_rate": 1e-4, "optimizer": "lion", "max_train_steps": None}
    adaptor_write(base, tmp_path, random_pairs(base, in_blocks), metadata=metadata, config=config)
    written = header(tmp_path / KOHYA)
    assert (written["ss_network_dim"], written["ss_network_alpha"], written["ss_network_module"]) == (
        "4",
        "8",
        "networks.lora",
    )
    assert (written["ss_seed"], written["ss_learning_rate"], written["ss_optimizer"]) == ("5", "0.0001", "lion")
    assert written["ss_resolution"] == "(64, 64)"
    assert written["ss_base_model_version"] == "sd_v1" and written["ss_v_parameterization"] == "False"
    assert json.loads(written["ss_tag_frequency"]) == {"dataset": {"sks dog": 1}}
    assert json.loads(written["ss_network_args"]) == {"conv_alpha": "8", "conv_dim": "4"}
    assert (
        written["modelspec.trigger_phrase"] == "sks dog"
        and written["modelspec.architecture"] == "stable-diffusion-v1/lora"
    )
    assert "ss_max_train_steps" not in written and "/" not in written["ss_sd_model_name"]


def test_the_kohya_header_counts_clip_skip_from_one_as_sd_scripts_does(base: Base, tmp_path: Path) -> None:
    for skip, written in (("1", "2"), ("0", None)):
        adaptor_write(base, tmp_path / skip, random_pairs(base, in_blocks), metadata={"clip_skip": skip})
        assert header(tmp_path / skip / KOHYA).get("ss_clip_skip") == written


def test_the_hashes_equal_those_of_sd_scripts(adaptor: Path) -> None:
    content = (adaptor / KOHYA).read_bytes()
    body = content[8 + int.from_bytes(content[:8], "little") :]
    written = header(adaptor / KOHYA)
    assert written["sshs_model_hash"] == hashlib.sha256(body).hexdigest()
    assert written["modelspec.hash_sha256"] == f"0x{written['sshs_model_hash']}"


def test_no_metadata_removes_entries_about_the_training(base: Base, tmp_path: Path) -> None:
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
