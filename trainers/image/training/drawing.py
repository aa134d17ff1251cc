"""Images that an `image_lora` job draws: samples of its eval prompts, and class images for prior preservation."""

from pathlib import Path

from foundation.atomic import file_mark_used
from trainers.contract.events import Progress, Sample
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.sample_image import DEFAULT_FLUX_GUIDANCE, DEFAULT_GUIDANCE
from trainers.core.cache import cache_key
from trainers.core.context import JobContext
from trainers.image.data.dataset import Rows, class_images_missing, with_class_images
from trainers.image.models.base import Base, TextSettings
from trainers.image.png import image_write
from trainers.image.sampling.denoise import Prompts, is_guided, prompts_encode
from trainers.image.sampling.sampler import sample_images

PROGRESS_EVERY = 10
"""Denoising steps between two `progress` events."""
CLASS_IMAGE_STEPS = 25
"""Denoising steps of a class image."""


def eval_prompts_encode(base: Base, params: ImageLoraParams) -> Prompts:
    """Encodes the prompts of all evaluations once, so that the text encoders can be unloaded.

    Not for a job that trains its text encoders.
    """
    guided = is_guided(base, params.eval_guidance(base.family))
    return prompts_encode(base, params.eval_prompts, params.eval_negative_prompt, _text_settings(params), guided=guided)


def eval_images_draw(job: JobContext[ImageLoraParams], base: Base, step: int, encoded: Prompts | None) -> bool:
    """Draws all eval prompts with the live weights as one batch, prompt i from eval_seed + i; False: stopped."""
    params = job.params
    prompts = params.eval_prompts
    seeds = [params.eval_seed + index for index in range(len(prompts))]

    def on_progress(done: int, total: int) -> None:
        if done % PROGRESS_EVERY == 0 or done == total:
            job.reporter.emit(Progress(stage="sampling", done=done, total=total))

    images = sample_images(
        base,
        prompts=prompts,
        negative_prompt=params.eval_negative_prompt,
        seeds=seeds,
        num_inference_steps=params.eval_num_inference_steps,
        guidance_scale=params.eval_guidance(base.family),
        width=params.resolution,
        height=params.resolution,
        settings=_text_settings(params),
        encoded=encoded,
        on_progress=on_progress,
        should_stop=job.control.stop_is_wanted,
    )
    for index, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=bool(images))):
        path = f"samples/step-{step:08d}-{index}.png"
        image_write(job.out / path, image, {"prompt": prompt, "seed": str(seed), "step": str(step)})
        job.reporter.emit(Sample(step=step, path=path, label=f"prompt {index + 1}", prompt=prompt, seed=seed))
    return bool(images)


def class_images_draw(job: JobContext[ImageLoraParams], base: Base, rows: Rows) -> Rows:
    """`rows` with the class images that its class dataset lacks, drawn once per host. Pairs on `base` must be disabled.

    Image i is drawn alone, from seed i, so that its bits depend on nothing else. After a stop request returns `rows`
    unchanged; fit obeys the stop before its first step.
    """
    missing = class_images_missing(rows, job.params)
    if not missing:
        return rows
    folder = job.cache / "class_images" / _class_images_key(job, base)
    processes = job.processes
    for start in range(0, missing, processes.world_size):
        if job.control.agree_to_stop():
            return rows
        seed = start + processes.rank
        if seed < missing:
            class_image_draw(folder / f"{seed:05d}.png", base, job.params, seed)
        done = min(start + processes.world_size, missing)
        job.reporter.emit(Progress(stage="making class images", done=done, total=missing))
    processes.barrier()
    return with_class_images(rows, job.params, folder)


def class_image_draw(path: Path, base: Base, params: ImageLoraParams, seed: int) -> None:
    """Draws one unless its file exists."""
    if path.exists():
        file_mark_used(path)
        return
    (image,) = sample_images(
        base,
        prompts=[params.class_prompt],
        negative_prompt="",
        seeds=[seed],
        num_inference_steps=CLASS_IMAGE_STEPS,
        guidance_scale=DEFAULT_FLUX_GUIDANCE if base.family == "flux" else DEFAULT_GUIDANCE,
        width=params.resolution,
        height=params.resolution,
        settings=_text_settings(params),
    )
    image_write(path, image, {"prompt": params.class_prompt, "seed": str(seed)})


def _class_images_key(job: JobContext[ImageLoraParams], base: Base) -> str:
    """Covers everything that the bits of an image depend on, except its seed."""
    params, model = job.params, job.spec.inputs.model
    assert model is not None
    names = ("class_prompt", "resolution", "clip_skip", "max_sequence_length", "mixed_precision", "base_quantization")
    values = {name: getattr(params, name) for name in names}
    return cache_key(model=model.sha256, scheduler=base.scheduler_config, device=job.processes.device.type, **values)


def _text_settings(params: ImageLoraParams) -> TextSettings:
    return TextSettings(params.clip_skip, params.max_sequence_length)
