"""Prior preservation: images of the class that the base model makes of itself, once per host."""

from pathlib import Path

from foundation.atomic import file_mark_used
from trainers.contract.events import Progress
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.sample_image import DEFAULT_FLUX_GUIDANCE, DEFAULT_GUIDANCE
from trainers.core.cache import cache_key
from trainers.core.context import JobContext
from trainers.image.data.rows import Rows, class_images_missing, with_class
from trainers.image.models.base import Base, TextSettings
from trainers.image.png import image_write
from trainers.image.sampling.sampler import sample_images

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
