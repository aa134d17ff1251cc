"""What an image job shows while it trains: sample images, and the loss of held-out images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from foundation.atomic import file_mark_used
from trainers.contract.events import Progress, Sample
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.sample_image import DEFAULT_FLUX_GUIDANCE, DEFAULT_GUIDANCE
from trainers.core.cache import cache_key
from trainers.core.context import JobContext
from trainers.core.distributed import Processes
from trainers.core.reporting import Reporter
from trainers.image.data.batches import MicroBatch
from trainers.image.data.rows import Rows, class_images_missing, with_class
from trainers.image.models.base import Base, TextSettings
from trainers.image.png import image_write
from trainers.image.sampling.denoise import Prompts, is_guided, prompts_encode
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


NUM_INFERENCE_STEPS = 25


def class_images_made(job: JobContext[ImageLoraParams], base: Base, rows: Rows) -> Rows:
    """`rows` with the class images that its class dataset does not give. Adaptors on `base` must rest meanwhile.

    Image i is drawn from seed i, alone, so that its bits depend on nothing else. Where a stop is wanted meanwhile the
    rows come back without them; fit obeys before its first step.
    """
    missing = class_images_missing(rows, job.params)
    if not missing:
        return rows
    folder = job.cache / "class_images" / _key(job, base)
    processes = job.processes
    for start in range(0, missing, processes.world_size):
        if job.control.agree_to_stop():
            return rows
        if start + processes.rank < missing:
            image_of_class(folder / f"{start + processes.rank:05d}.png", base, job.params, start + processes.rank)
        done = min(start + processes.world_size, missing)
        job.reporter.emit(Progress(stage="making class images", done=done, total=missing))
    processes.barrier()
    return with_class(rows, job.params, folder)


def image_of_class(path: Path, base: Base, params: ImageLoraParams, seed: int) -> None:
    """Draws one, unless it is there."""
    if path.exists():
        file_mark_used(path)
        return
    (image,) = sample_images(
        base,
        prompts=[params.class_prompt],
        negative_prompt="",
        seeds=[seed],
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance_scale=DEFAULT_FLUX_GUIDANCE if base.family == "flux" else DEFAULT_GUIDANCE,
        width=params.resolution,
        height=params.resolution,
        settings=TextSettings(params.clip_skip, params.max_sequence_length),
    )
    image_write(path, image, {"prompt": params.class_prompt, "seed": str(seed)})


def _key(job: JobContext[ImageLoraParams], base: Base) -> str:
    """Of all that an image's bits depend on but its seed."""
    params, model = job.params, job.spec.inputs.model
    assert model is not None
    names = ("class_prompt", "resolution", "clip_skip", "max_sequence_length", "mixed_precision", "base_quantization")
    chosen = {name: getattr(params, name) for name in names}
    return cache_key(model=model.sha256, scheduler=base.scheduler_config, device=job.processes.device.type, **chosen)
