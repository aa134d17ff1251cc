"""Every family against stock diffusers: the same embeddings, the same denoising, the same latents."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from torch import Tensor

from tests.tolerance import assert_near
from trainers.contract.errors import TrainerError
from trainers.image.models import flux
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import encode_image, image_family, load_base
from trainers.image.models.text_encoders import text_stack

pytestmark = pytest.mark.numeric

KINDS = ("sd1", "sd2", "sdxl", "sd3", "sd3_without_t5", "sd35", "flux", "flux_schnell")
CLIP_KINDS = ("sd1", "sd2", "sdxl")
PLAIN = TextSettings()
PROMPT = "a photo of dog, 3 cats"
SIZES = (80.0, 96.0, 8.0, 4.0, 64.0, 64.0)
"""Original height and width, top and left of the crop, height and width of the target."""
STEPS = 3
GUIDANCE = 3.5
FLUX: Any = FluxPipeline


@pytest.fixture(scope="session")
def loaded(tiny_base: Callable[[str], Path]) -> Callable[[str], Base]:
    """Base of a kind, in fp32. Its weights are not to be changed."""
    return cache(lambda kind: load_base(tiny_base(kind), torch.float32))


def encoded(base: Base, text: str, settings: TextSettings = PLAIN) -> dict[str, Tensor]:
    return image_family(base.family).encode_text(base, [text], settings)[0]


def stock_embeddings(base: Base, text: str, **options: Any) -> dict[str, Tensor]:
    """What the pipeline's own encode_prompt makes, under our names."""
    pipe = base.pipeline()
    with torch.no_grad():
        if base.family in ("sd1", "sd2"):
            return {"prompt": pipe.encode_prompt(text, "cpu", 1, False, **options)[0][0]}
        if base.family == "sdxl":
            prompt, _, pooled, _ = pipe.encode_prompt(text, do_classifier_free_guidance=False, **options)
        elif base.family == "sd3":
            prompt, _, pooled, _ = pipe.encode_prompt(text, None, None, do_classifier_free_guidance=False, **options)
        else:
            prompt, pooled, _ = pipe.encode_prompt(text, **options)
    return {"prompt": prompt[0], "pooled": pooled[0]}


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_are_those_of_the_pipeline(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    ours, reference = encoded(base, PROMPT), stock_embeddings(base, PROMPT)
    assert ours.keys() == reference.keys()
    for key in ours:
        assert_near(ours[key], reference[key])
    assert not torch.equal(ours["prompt"], encoded(base, "a cat")["prompt"])


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_clip_skip_skips_layers_as_the_pipeline_does(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    ours = encoded(base, PROMPT, TextSettings(clip_skip=1))
    assert_near(ours["prompt"], stock_embeddings(base, PROMPT, clip_skip=1)["prompt"])
    assert not torch.equal(ours["prompt"], encoded(base, PROMPT)["prompt"])


def test_clip_skip_of_stable_diffusion_1_takes_earlier_states_through_the_final_norm(
    loaded: Callable[[str], Base],
) -> None:
    base = loaded("sd1")  # the pipeline's own clip_skip asks for a module that transformers 5 no longer has
    encoder, ids = base.text_encoders[0], image_family("sd1").tokenize(base, [PROMPT], PLAIN)[0]["ids/0"]
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        for skip in (0, 1):
            expected = encoder.final_layer_norm(states[-1 - skip])[0]
            assert_near(encoded(base, PROMPT, TextSettings(clip_skip=skip))["prompt"], expected)


def test_a_clip_skip_that_leaves_no_layer_is_refused(loaded: Callable[[str], Base]) -> None:
    with pytest.raises(TrainerError, match="text encoder, which has 2; lower clip_skip"):
        encoded(loaded("sd1"), PROMPT, TextSettings(clip_skip=12))


@pytest.mark.parametrize("kind", ["sd3", "sd3_without_t5", "flux"])
def test_max_sequence_length_is_what_t5_reads(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    ours = encoded(base, PROMPT, TextSettings(max_sequence_length=20))
    assert_near(ours["prompt"], stock_embeddings(base, PROMPT, max_sequence_length=20)["prompt"])
    assert len(ours["prompt"]) == (20 if kind == "flux" else 97)


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_a_long_prompt_fills_chunks_of_75_tokens_up_to_225(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    words = ["dog " * 75, "cat " * 75, "photo " * 10]
    long = encoded(base, "".join(words[:2]))["prompt"]
    assert_near(long, torch.cat([encoded(base, word)["prompt"] for word in words[:2]]))
    assert torch.equal(encoded(base, "dog " * 225)["prompt"], encoded(base, "dog " * 400)["prompt"])
    assert len(encoded(base, "dog " * 400)["prompt"]) == 231
    assert len(encoded(base, "dog", TextSettings(min_chunks=2))["prompt"]) == 154


@pytest.mark.parametrize("kind", CLIP_KINDS)
def test_a_prompt_is_encoded_the_same_beside_a_longer_one(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    short, long = encoded(base, "a dog"), encoded(base, "dog " * 80)
    noisy, times = latents(base, batch=2), times_of(base, 2)
    alone = predict(base, noisy[:1], times[:1], text_stack([short]))
    beside = predict(base, noisy, times, text_stack([short, long]))
    assert_near(alone, beside[:1])
    family = image_family(base.family)
    ids = text_stack(family.tokenize(base, ["a dog", "dog " * 80], PLAIN))
    with torch.no_grad():
        trained = family.embed(base, ids, PLAIN)
    assert_near(predict(base, noisy, times, trained), beside)


@pytest.mark.parametrize("kind", KINDS)
def test_denoising_is_that_of_the_stock_pipeline(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    start = latents(base)
    assert_near(our_denoising(base, start), stock_denoising(base, start))


def latents(base: Base, batch: int = 1) -> Tensor:
    shape = (batch, int(base.vae.config.latent_channels), 8, 8)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def times_of(base: Base, count: int) -> Tensor:
    return torch.full((count,), 0.4) if image_family(base.family).is_flow else torch.full((count,), 400)


@torch.no_grad()
def predict(base: Base, noisy: Tensor, times: Tensor, text: dict[str, Tensor], guidance: float = GUIDANCE) -> Tensor:
    sizes = torch.tensor([SIZES] * len(noisy))
    return image_family(base.family).predict(base, noisy, times, text, sizes, guidance)


def our_denoising(base: Base, latent: Tensor) -> Tensor:
    """The scheduler's steps around `predict`."""
    scheduler = base.pipeline().scheduler
    if base.family == "flux":
        scheduler.set_timesteps(sigmas=[1 - i / STEPS for i in range(STEPS)], mu=0.5 + 0.65 * (16 - 256) / 3840)
    else:
        scheduler.set_timesteps(STEPS)
    is_flow = image_family(base.family).is_flow
    latent = latent if is_flow else latent * scheduler.init_noise_sigma
    text = text_stack([encoded(base, PROMPT)])
    for time in scheduler.timesteps:
        network_input = latent if is_flow else scheduler.scale_model_input(latent, time)
        says = predict(base, network_input, (time / 1000 if is_flow else time)[None], text)
        latent = scheduler.step(says, time, latent, return_dict=False)[0]
    return latent


def stock_denoising(base: Base, latent: Tensor) -> Tensor:
    pipe = base.pipeline()
    pipe.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"guidance_scale": 1.0}
    if base.family == "flux":
        options = {"guidance_scale": GUIDANCE, "height": 64, "width": 64}
        latent = FLUX._pack_latents(latent, 1, 16, 8, 8)
    elif base.family == "sdxl":
        sizes = {"original_size": (80, 96), "crops_coords_top_left": (8, 4), "target_size": (64, 64)}
        options |= {**sizes, "height": 64, "width": 64}
    done: Tensor = pipe(PROMPT, num_inference_steps=STEPS, latents=latent, output_type="latent", **options).images
    return FLUX._unpack_latents(done, 64, 64, 8) if base.family == "flux" else done


@pytest.mark.parametrize("sizes", [(64.0, 96.0, 8.0, 4.0, 64.0, 64.0), (80.0, 96.0, 0.0, 4.0, 64.0, 64.0)])
def test_sdxl_is_conditioned_on_the_sizes_of_the_image(sizes: tuple[float, ...], loaded: Callable[[str], Base]) -> None:
    base, family = loaded("sdxl"), image_family("sdxl")
    text, noisy, times = text_stack([encoded(loaded("sdxl"), PROMPT)]), latents(base), times_of(base, 1)
    with torch.no_grad():
        usual = family.predict(base, noisy, times, text, torch.tensor([SIZES]), 1.0)
        other = family.predict(base, noisy, times, text, torch.tensor([sizes]), 1.0)
    assert not torch.allclose(usual, other, atol=1e-6)


def test_only_flux_with_a_guidance_embedding_uses_guidance(loaded: Callable[[str], Base]) -> None:
    for kind, looks in (("flux", True), ("flux_schnell", False)):
        base = loaded(kind)
        text, noisy = text_stack([encoded(base, PROMPT)]), latents(base)
        low, high = (predict(base, noisy, times_of(base, 1), text, guidance) for guidance in (1.0, 7.0))
        assert torch.equal(low, high) is not looks


def test_packing_of_flux_is_that_of_diffusers_and_has_an_inverse() -> None:
    latent = torch.randn(2, 16, 6, 10)
    packed = flux.packed(latent)
    assert torch.equal(packed, FLUX._pack_latents(latent, 2, 16, 6, 10))
    assert torch.equal(flux.unpacked(packed, 6, 10), latent)
    assert torch.equal(
        flux.patch_places(6, 10, torch.device("cpu")), FLUX._prepare_latent_image_ids(2, 3, 5, "cpu", torch.float32)
    )


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3", "flux"])
def test_images_are_encoded_to_the_moments_of_the_vae(kind: str, loaded: Callable[[str], Base]) -> None:
    base = loaded(kind)
    pixels = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1
    mean, logvar = encode_image(base, pixels)
    with torch.no_grad():
        reference = base.vae.encode(pixels).latent_dist
    assert_near(mean, reference.mean)
    assert_near(logvar, reference.logvar)
    assert mean.shape == (1, base.vae.config.latent_channels, 8, 6)


@pytest.mark.parametrize("kind", ["sd1", "sdxl", "sd3", "flux"])
def test_embeddings_are_differentiable_for_training_of_text_encoders(
    kind: str, tiny_base: Callable[[str], Path]
) -> None:
    base = load_base(tiny_base(kind), torch.float32)
    family = image_family(base.family)
    weight = next(
        p for n, p in base.text_encoders[0].named_parameters() if n.endswith("layers.0.self_attn.q_proj.weight")
    )
    weight.requires_grad_(True)
    ids = text_stack(family.tokenize(base, ["a dog", "a cat"], PLAIN))
    text = family.embed(base, ids, PLAIN)
    for key in ("pooled",) if kind == "flux" else ("prompt",):
        text[key].square().sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and weight.grad.abs().sum() > 0
    alone = family.encode_text(base, ["a cat"], PLAIN)[0]
    for key in alone:
        assert_near(text[key][1].detach(), alone[key])
