"""The method as a whole: its loss against a plain loop, what it leaves, what it refuses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from PIL import Image

from tests.tiny_parts import ATTENTION
from tests.tolerance import CURVE
from tests.trainers.job import WORDS, Job
from trainers.core.lora import attach
from trainers.core.noise import Purpose, integer, normal, permutation


def reference_losses(base: Path, dataset: Path, *, steps: int, batch: int, gamma: float, offset: float) -> list[float]:
    """What a person would write: one straight loop on diffusers' own classes, with the draws of trainers.core.noise."""
    classes: tuple[Any, Any] = StableDiffusionPipeline, DDPMScheduler  # diffusers has no types
    pipeline, seed, losses = classes[0].from_pretrained(base, safety_checker=None), 42, []
    unet, vae, scheduler = pipeline.unet, pipeline.vae, classes[1].from_config(pipeline.scheduler.config)
    lora = attach(unet, r=8, alpha=16, dropout=0.0, seed=integer(2**63 - 1, seed, Purpose.LORA_INIT), targets=ATTENTION)
    optimizer = torch.optim.AdamW([p for p in lora if p.requires_grad], lr=1e-2, weight_decay=0.01)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 2))
    order = [row for epoch in range(steps) for row in permutation(4, seed, Purpose.ORDER, epoch)]
    for step in range(steps):
        total = torch.zeros(())
        for position, row in enumerate(order[step * batch : (step + 1) * batch]):
            pixels = np.asarray(Image.open(dataset / f"{row}.png"), dtype=np.float32) / 127.5 - 1
            ids = pipeline.tokenizer(WORDS[row], padding="max_length", max_length=77, return_tensors="pt").input_ids
            with torch.no_grad():
                posterior = vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist
                hidden = pipeline.text_encoder(ids)[0]
            eps = normal((4, 8, 8), seed, Purpose.LATENT, step, position)
            latents = (posterior.mean + posterior.std * eps) * vae.config.scaling_factor
            noise = normal((4, 8, 8), seed, Purpose.NOISE, step, position)[None]
            noise = noise + offset * normal((4,), seed, Purpose.NOISE_OFFSET, step, position)[None, :, None, None]
            timestep = torch.tensor([integer(1000, seed, Purpose.TIMESTEP, step, position)])
            predicted = unet(scheduler.add_noise(latents, noise, timestep), timestep, hidden).sample
            abar = scheduler.alphas_cumprod[timestep]
            weight = torch.clamp(abar / (1 - abar), max=gamma) / (abar / (1 - abar))
            total = total + weight * torch.nn.functional.mse_loss(predicted, noise) / batch
        torch.autograd.backward(total)
        torch.nn.utils.clip_grad_norm_(lora, 0.05)
        optimizer.step()
        rates.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


@pytest.mark.numeric
def test_the_loss_curve_is_that_of_a_plain_loop(job: Job, tiny_sd: Path) -> None:
    job.spec(
        max_train_steps=5,
        train_batch_size=1,
        gradient_accumulation_steps=2,
        snr_gamma=0.5,
        noise_offset=0.1,
        max_grad_norm=0.05,
        lr_scheduler="constant_with_warmup",
        lr_warmup_steps=2,
    )
    assert job.run() == 0
    expected = reference_losses(tiny_sd, job.dataset, steps=5, batch=2, gamma=0.5, offset=0.1)
    assert list(job.losses().values()) == pytest.approx(expected, rel=CURVE)


@pytest.mark.numeric
def test_accumulation_gives_the_curve_of_one_large_batch(make_job: Callable[..., Job]) -> None:
    uninterrupted, parts = make_job("uninterrupted"), make_job("parts")
    assert uninterrupted.spec(train_batch_size=3).run() == 0
    assert parts.spec(train_batch_size=1, gradient_accumulation_steps=3).run() == 0
    assert list(parts.losses().values()) == pytest.approx(list(uninterrupted.losses().values()), rel=CURVE)


@pytest.mark.acceptance
@pytest.mark.parametrize("name", ["pd_photos", "dreambooth/dog", "noto_emoji"])
def test_real_photos_are_trained_on(name: str, make_job: Callable[..., Job], shared_data: Path) -> None:
    job = make_job()
    for path in job.dataset.iterdir():
        path.unlink()
    job.dataset.rmdir()
    job.dataset.symlink_to(shared_data / "images" / name)
    varied = name != "noto_emoji"
    evaluation: dict[str, Any] = {"eval_prompt": "a dog", "eval_num_inference_steps": 2, "eval_every_steps": 3}
    job.spec(center_crop=not varied, random_flip=varied, trigger_word="sks", validation_split=0.2, **evaluation)
    assert job.run() == 0
    assert len(job.losses()) == 3
    assert len(job.of_kind("sample")) == 2
    assert len(job.of_kind("validation")) == 2


def test_a_cut_caption_is_warned_of(job: Job) -> None:
    job.dataset.joinpath("1.txt").write_text("a very long caption " * 30)
    assert job.run() == 0
    (warning,) = job.of_kind("warning")
    assert warning.message == "1 captions have more than 225 tokens and are cut; the first is 1.png"
