import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tests.tiny_parts import ATTENTION
from tests.tiny_sd import build_tiny_sd
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.lora import attach
from trainers.image.models.base import Base, scheduler_of
from trainers.image.models.families import load_base
from trainers.image.sampling.sampler import sample_images

pytestmark = pytest.mark.numeric

SAMPLERS = ["default", "ddim", "euler", "dpm++_2m"]


@pytest.fixture(scope="module")
def base(tiny_sd: Path) -> Base:
    return load_base(tiny_sd, torch.float32)


def draw(base: Base, **changes: Any) -> list[Image.Image]:
    settings: dict[str, Any] = {
        "prompts": ["a dog"],
        "negative_prompt": "",
        "seeds": [1],
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "width": None,
        "height": None,
    }
    return sample_images(base, **(settings | changes))


def distance(one: Image.Image, other: Image.Image) -> int:
    """Largest difference of a channel, 0 to 255."""
    return int(np.abs(np.asarray(one, dtype=int) - np.asarray(other, dtype=int)).max())


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_image_is_that_of_the_stock_pipeline(base: Base, tiny_sd: Path, sampler: str) -> None:
    stock: Any = StableDiffusionPipeline.from_pretrained(tiny_sd, use_safetensors=True)  # type: ignore[no-untyped-call]
    stock.set_progress_bar_config(disable=True)
    if sampler != "default":
        stock.scheduler = scheduler_of(base.scheduler_config, sampler)
    generator = torch.Generator().manual_seed(1)
    expected = stock("a dog", num_inference_steps=3, guidance_scale=4.0, generator=generator).images[0]
    assert distance(draw(base, num_inference_steps=3, scheduler=sampler)[0], expected) == 0


def test_a_seed_gives_the_same_image_alone_and_among_others(base: Base) -> None:
    together = draw(base, prompts=["a dog", "a cat", "a dog"], seeds=[1, 2, 3])
    for index, prompt in enumerate(["a dog", "a cat", "a dog"]):
        (alone,) = draw(base, prompts=[prompt], seeds=[index + 1])
        assert distance(alone, together[index]) <= 1


def test_equal_calls_give_equal_bits(base: Base) -> None:
    assert draw(base)[0].tobytes() == draw(base)[0].tobytes()


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [2]},
        {"prompts": ["a cat"]},
        {"negative_prompt": "a cat"},
        {"num_inference_steps": 4},
        {"guidance_scale": 1.0},
        {"scheduler": "euler"},
        {"scheduler": "dpm++_2m", "num_inference_steps": 3},
    ],
)
def test_every_argument_changes_the_image(base: Base, change: dict[str, Any]) -> None:
    assert distance(draw(base, **change)[0], draw(base)[0]) > 0


def test_the_size_defaults_to_that_of_the_base(base: Base) -> None:
    assert draw(base)[0].size == (64, 64)
    assert draw(base, width=96, height=72)[0].size == (96, 72)


def test_the_global_random_state_is_left_alone(base: Base) -> None:
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state()  # type: ignore[index]
    draw(base)
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tobytes() == states[1]  # type: ignore[index]
    assert torch.equal(torch.get_rng_state(), states[2])


def test_live_weights_are_used_without_dropout_and_train_mode_is_put_back(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.float32)
    (before,) = draw(base)
    parameters = attach(base.network, r=4, alpha=8, dropout=0.5, seed=0, targets=ATTENTION)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)
    first, second = draw(base)[0], draw(base)[0]
    assert distance(first, second) == 0
    assert distance(first, before) > 0
    assert base.network.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in parameters)


def test_progress_is_reported_after_each_step(base: Base) -> None:
    calls: list[tuple[int, int]] = []
    draw(base, num_inference_steps=3, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_stop_ends_sampling_between_two_steps_without_images(base: Base) -> None:
    calls: list[int] = []
    images = draw(
        base,
        num_inference_steps=5,
        on_progress=lambda done, _: calls.append(done),
        should_stop=lambda: len(calls) == 2,
    )
    assert images == []
    assert calls == [1, 2]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_zero_terminal_base_gives_a_finite_image(tmp_path: Path, sampler: str) -> None:
    folder = build_tiny_sd(tmp_path / "m", prediction_type="v_prediction", rescale_betas_zero_snr=True)
    (image,) = draw(load_base(folder, torch.float32), scheduler=sampler)
    assert np.asarray(image).std() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_image(base: Base, tiny_sd: Path, dtype: torch.dtype) -> None:
    (half,) = draw(load_base(tiny_sd, dtype))
    mean = np.abs(np.asarray(half, dtype=int) - np.asarray(draw(base)[0], dtype=int)).mean()
    assert mean < 8


def test_a_non_finite_image_is_refused_with_its_seed(tiny_sd: Path) -> None:
    base = load_base(tiny_sd, torch.float32)
    with torch.no_grad():
        base.vae.decoder.conv_out.bias.fill_(float("nan"))
    with pytest.raises(TrainerError, match="the image of seed 1 has values that are NaN") as caught:
        draw(base)
    assert caught.value.reason.code == ReasonCode.NON_FINITE_LOSS
