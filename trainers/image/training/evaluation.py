"""What an image job shows while it trains: sample images, and the loss of held-out images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from trainers.contract.events import Progress, Sample
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter
from trainers.image.data.batches import MicroBatch
from trainers.image.models.base import Base, TextSettings
from trainers.image.png import image_write
from trainers.image.sampling.prompts import Prompts, is_guided, prompts_encode
from trainers.image.sampling.sampler import sample_images
from trainers.image.training.denoising import Denoising

TELL_EVERY = 10
"""Denoising steps between two `progress` events."""


def eval_prompts_encode(base: Base, params: ImageLoraParams) -> Prompts:
    """The prompts of all evaluations, once, so that the text encoders can go. Not for text encoders in training."""
    guided = is_guided(base, params.eval_guidance(base.family))
    return prompts_encode(base, params.eval_prompts, params.eval_negative_prompt, _settings(params), guided=guided)


def images_sample(
    base: Base,
    params: ImageLoraParams,
    step: int,
    *,
    out: Path,
    reporter: Reporter,
    should_stop: Callable[[], bool],
    encoded: Prompts | None = None,
) -> bool:
    """Draws every eval prompt with the live weights, as one batch, prompt i from eval_seed + i; False: broken off."""
    prompts = params.eval_prompts
    seeds = [params.eval_seed + index for index in range(len(prompts))]

    def tell(done: int, total: int) -> None:
        if done % TELL_EVERY == 0 or done == total:
            reporter.emit(Progress(stage="sampling", done=done, total=total))

    images = sample_images(
        base,
        prompts=prompts,
        negative_prompt=params.eval_negative_prompt,
        seeds=seeds,
        num_inference_steps=params.eval_num_inference_steps,
        guidance_scale=params.eval_guidance(base.family),
        width=params.resolution,
        height=params.resolution,
        settings=_settings(params),
        encoded=encoded,
        on_progress=tell,
        should_stop=should_stop,
    )
    for index, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=bool(images))):
        path = f"samples/step-{step:08d}-{index}.png"
        image_write(out / path, image, {"prompt": prompt, "seed": str(seed), "step": str(step)})
        reporter.emit(Sample(step=step, path=path, label=f"prompt {index + 1}", prompt=prompt, seed=seed))
    return bool(images)


@torch.no_grad()
def validation_loss(objective: Denoising, batches: Sequence[MicroBatch], processes: Processes) -> float:
    """Mean loss of a sample; every rank takes its share and gets the same answer. Dropout must rest meanwhile."""
    total = torch.zeros((), device=processes.device)
    for batch in processes.mine(batches):
        total += objective(batch)[0]
    return float(processes.sum(total)) / sum(len(batch.times_B) for batch in batches)


def _settings(params: ImageLoraParams) -> TextSettings:
    return TextSettings(params.clip_skip, params.max_sequence_length)
