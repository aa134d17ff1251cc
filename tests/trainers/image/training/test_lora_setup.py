"""Which pairs a job trains, and that they stay in fp32 whatever they sit on."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.trainers.job import SHA256, Job, adaptor_of, give, job_make, refusal
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.device import network_quantise, repeated_linears
from trainers.core.lora import TRAINED, lora_layers
from trainers.image.adaptors.file import adaptor_read
from trainers.image.adaptors.pairs import update
from trainers.image.models.base import Base
from trainers.image.models.families import load_base
from trainers.image.training.lora_setup import TrainedLora, channels_last_set, pairs_attach

pytestmark = pytest.mark.numeric

CPU = torch.device("cpu")


@pytest.fixture
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


def attached(base: Base, **params: Any) -> TrainedLora:
    return pairs_attach(base, ImageLoraParams(adaptor_name="a", **{"lora_r": 4, **params}))


def modules_of(trained: TrainedLora, part: str = "unet") -> set[str]:
    names = {key.removeprefix(f"{part}.") for key in trained.state() if key.startswith(f"{part}.")}
    return {name.rsplit(".lora_", 1)[0] for name in names}


@torch.no_grad()
def moved(trained: TrainedLora) -> TrainedLora:
    generator = torch.Generator().manual_seed(0)
    for parameter in trained.parameters:
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return trained


@torch.no_grad()
def prediction(base: Base) -> torch.Tensor:
    """Of fixed inputs, without dropout."""
    generator = torch.Generator().manual_seed(1)
    dtype = base.vae.dtype
    latents, text = (torch.randn(shape, generator=generator).to(dtype) for shape in ((1, 4, 8, 8), (1, 77, 32)))
    base.network.eval()
    output: torch.Tensor = base.network(latents, torch.tensor([500]), encoder_hidden_states=text).sample
    return output.float()


def test_each_choice_of_targets_holds_the_one_before(base: Base, tiny_sd: Path) -> None:
    linears = {name for name, module in base.network.named_modules() if isinstance(module, nn.Linear)}
    attention = modules_of(attached(base))
    feed_forward = modules_of(attached(load_base(tiny_sd, torch.float32), lora_targets="attention+ff"))
    everything = modules_of(attached(load_base(tiny_sd, torch.float32), lora_targets="all-linear"))
    assert attention < feed_forward < everything
    assert {name.rpartition(".ff.")[1] for name in feed_forward - attention} == {".ff."}
    assert everything == linears


def test_convolutions_get_pairs_of_their_own_rank_and_the_same_scale(base: Base) -> None:
    before = prediction(base)
    trained = attached(base, conv_rank=2, lora_alpha=12)
    layers = dict(lora_layers(base.network, TRAINED))
    convolutions = {name for name, layer in layers.items() if isinstance(layer.base_layer, nn.Conv2d)}
    assert convolutions and len(convolutions) < len(layers)
    assert {layers[name].r[TRAINED] for name in convolutions} == {2}
    assert {layer.r[TRAINED] for name, layer in layers.items() if name not in convolutions} == {4}
    assert {layer.scaling[TRAINED] for layer in layers.values()} == {3.0}
    assert torch.equal(prediction(base), before)
    assert not torch.equal(prediction_after_move(base, trained), before)


def prediction_after_move(base: Base, trained: TrainedLora) -> torch.Tensor:
    moved(trained)
    return prediction(base)


def test_dora_trains_the_length_of_each_row_and_starts_unchanged(base: Base) -> None:
    before = prediction(base)
    trained = attached(base, use_dora=True)
    assert torch.allclose(prediction(base), before, atol=1e-5)
    name, layer = lora_layers(base.network, TRAINED)[0]
    lengths = trained.state()[f"unet.{name}.lora_magnitude_vector"]
    assert torch.allclose(lengths, layer.base_layer.weight.norm(dim=1), rtol=1e-5)  # type: ignore[union-attr]
    assert len(trained.parameters) == 3 * len(lora_layers(base.network, TRAINED))


def test_the_text_encoder_is_trained_only_on_request(base: Base, tiny_sd: Path) -> None:
    assert attached(base).text_encoders == []
    both = load_base(tiny_sd, torch.float32)
    trained = attached(both, train_text_encoder=True)
    assert set(trained.modules) == {"unet", "text_encoder"}
    assert {name.rpartition(".")[2] for name in modules_of(trained, "text_encoder")} == {
        "q_proj",
        "k_proj",
        "v_proj",
        "out_proj",
    }
    trainable = [p for module in trained.modules.values() for p in module.parameters() if p.requires_grad]
    assert {id(p) for p in trainable} == {id(p) for p in trained.parameters}
    assert trained.text_encoders and len(trained.network) + len(trained.text_encoders) == len(trained.parameters)


@pytest.mark.parametrize("params", [{}, {"use_dora": True, "conv_rank": 2, "train_text_encoder": True}])
def test_a_restored_state_gives_the_same_prediction(params: dict[str, Any], base: Base, tiny_sd: Path) -> None:
    first = moved(attached(base, **params))
    other = load_base(tiny_sd, torch.float32)
    second = attached(other, **params, seed=7)
    second.load_state(first.state())
    assert torch.equal(prediction(other), prediction(base))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters, second.parameters, strict=True))


def test_dropout_is_off_in_evaluation_and_on_again_afterwards(base: Base) -> None:
    trained = attached(base, train_text_encoder=True, lora_dropout=0.5)
    with trained.eval_mode():
        assert not any(module.training for module in trained.modules.values())
    assert all(module.training for module in trained.modules.values())


@pytest.mark.parametrize("kind", ["int8", "nf4"])
@pytest.mark.parametrize("use_dora", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantised_base_is_near_the_plain_one_and_its_pairs_are_fp32(
    kind: Any, use_dora: bool, dtype: torch.dtype, tiny_sd: Path
) -> None:
    base = load_base(tiny_sd, dtype)
    before = prediction(base)
    frozen_bytes = weight_bytes(base)
    network_quantise(base.network, kind, CPU)
    trained = attached(base, use_dora=use_dora)
    after = prediction(base)
    error = ((after - before).norm() / before.norm()).item()
    assert 1e-5 < error < (0.03 if kind == "int8" else 0.25)
    assert {parameter.dtype for parameter in trained.parameters} == {torch.float32}
    assert weight_bytes(base) < frozen_bytes
    assert not torch.equal(prediction_after_move(base, trained), after)


def weight_bytes(base: Base) -> int:
    """Of the frozen linear layers inside blocks."""
    num_bytes = 0
    for name, module in base.network.named_modules():
        weight = getattr(module, "weight", None)
        if ".lora_" not in name and weight is not None and "attn" in name and not hasattr(module, "base_layer"):
            num_bytes += sum(t.nbytes for t in tensors_of(weight))
    return num_bytes


def tensors_of(weight: Any) -> list[torch.Tensor]:
    """torchao's tensor is a class around plain ones."""
    return [weight.qdata, weight.scale] if hasattr(weight, "qdata") else [weight.data]


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_gradients_reach_the_pairs_through_a_quantised_base(kind: Any, base: Base) -> None:
    network_quantise(base.network, kind, CPU)
    trained = moved(attached(base))
    output = base.network(
        torch.randn(1, 4, 8, 8), torch.tensor([5]), encoder_hidden_states=torch.randn(1, 77, 32)
    ).sample
    output.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in trained.parameters)


def test_only_what_is_repeated_is_quantised(base: Base) -> None:
    names = repeated_linears(base.network)
    assert "time_embedding.linear_1" not in names
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" in names


@pytest.fixture(scope="module")
def adaptor(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path, shared_cache: Path) -> Path:
    """What a job left that another goes on from."""
    job = job_make(tmp_path_factory.mktemp("before") / "job", tiny_sd, shared_cache)
    assert job.spec(max_train_steps=1, lora_r=4, lora_alpha=8, adam_weight_decay=0).run() == 0
    return job.out


def going_on(job: Job, adaptor: Path, count: int = 1, **params: Any) -> Job:
    for index in range(count):
        (job.inputs / "adaptor").mkdir(exist_ok=True)
        shutil.copytree(adaptor, job.inputs / "adaptor" / str(index))
    settings = {"lora_r": 4, "lora_alpha": 8, "max_train_steps": 1, "learning_rate": 1e-7, "adam_weight_decay": 0}
    ref = {"name": "before@1", "key": "adaptor", "sha256": SHA256}
    return give(job.spec(**{**settings, **params}), adaptors=[ref] * count)


def test_training_starts_from_the_pairs_of_the_adaptor(adaptor: Path, job: Job) -> None:
    assert going_on(job, adaptor).run() == 0
    before = load_file(adaptor / "adaptor" / "pytorch_lora_weights.safetensors")
    after = adaptor_of(job)
    assert before.keys() == after.keys()
    assert all(torch.allclose(after[key], value, atol=1e-6) for key, value in before.items())
    assert any(value.abs().max() > 1e-3 for key, value in before.items() if "lora_B" in key)


@pytest.mark.parametrize(
    ("params", "text"),
    [
        pytest.param({"lora_alpha": 16}, "another lora_alpha / lora_r", marks=pytest.mark.slow),
        ({"lora_r": 8, "lora_alpha": 16}, "get a higher rank"),
        pytest.param({"lora_r": 8, "lora_alpha": 8}, "get a higher rank", marks=pytest.mark.slow),
        ({"lora_targets": "attention+ff"}, "layers begin without an update"),
        pytest.param({"train_text_encoder": True}, "layers begin without an update", marks=pytest.mark.slow),
    ],
)
def test_wider_pairs_start_with_the_update_of_the_adaptor(
    params: dict[str, Any], text: str, adaptor: Path, job: Job, tiny_sd: Path
) -> None:
    """An imported file of rank 2, or of alpha 1, can go on, though no job can be told to train such a one."""
    assert going_on(job, adaptor, **params).run() == 0
    assert any(text in warning.message for warning in job.of_kind("warning"))
    base = load_base(tiny_sd, torch.float32)
    before, after = (adaptor_read(base, folder / "adaptor").pairs for folder in (adaptor, job.out))
    for part, by_layer in after.items():
        for layer, pair in by_layer.items():
            was = before.get(part, {}).get(layer)
            expected = update(was) if was else torch.zeros_like(update(pair))
            assert torch.allclose(update(pair), expected, atol=1e-6), layer


@pytest.mark.parametrize(
    ("trained", "params", "text"),
    [
        ({}, {"use_dora": True}, "set use_dora=false"),
        ({}, {"prediction_type": "v_prediction"}, "prediction_type=epsilon"),
        ({"lora_r": 8}, {}, "has rank 8 on unet.down_blocks.0"),
        ({"lora_targets": "attention+ff"}, {}, "widen lora_targets"),
    ],
)
def test_parameters_that_do_not_fit_the_adaptor_are_named(
    trained: dict[str, Any], params: dict[str, Any], text: str, adaptor: Path, make_job: Callable[..., Job]
) -> None:
    source = adaptor
    if trained:
        before = make_job("trained").spec(**{"max_train_steps": 1, "lora_r": 4, "lora_alpha": 8, **trained})
        assert before.run() == 0
        source = before.out
    assert text in refusal(going_on(make_job("going on"), source, **params))


def test_more_than_one_init_adaptor_is_refused(adaptor: Path, job: Job) -> None:
    assert "got 2" in refusal(going_on(job, adaptor, count=2))


def test_an_init_adaptor_of_another_base_is_refused(adaptor: Path, job: Job) -> None:
    going_on(job, adaptor)
    give(job, model={"name": "other", "key": "model", "sha256": "1" * 64})
    assert job.run() == 1
    assert job.failure().reason.code == "bad_adaptor"


def test_convolutions_of_a_unet_lie_channels_last_on_accelerators_alone(tiny_sd: Path) -> None:
    network = load_base(tiny_sd, torch.float32).network
    weights = [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]
    before = [weight.clone() for weight in weights]
    channels_last_set(network, torch.device("cpu"))
    assert all(weight.is_contiguous() for weight in weights)
    channels_last_set(network, torch.device("cuda"))
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
    assert not all(weight.is_contiguous() for weight in weights)
    assert all(torch.equal(weight, value) for weight, value in zip(weights, before, strict=True))
