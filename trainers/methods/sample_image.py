"""Method `sample_image`: images from text or another image, with a base model and any number of adaptors."""

import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from PIL import Image

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Started
from trainers.contract.params.sample_image import SampleImageParams
from trainers.core.context import JobContext, Outcome
from trainers.core.distributed import single_process_check
from trainers.core.reporting import Reporter
from trainers.image.adaptors.apply import Adapted, adaptors_apply, adaptors_remove, adaptors_switch
from trainers.image.models.base import Base, TextSettings
from trainers.image.models.families import image_family, load_base
from trainers.image.sampling.sample_writer import Column, SampleWriter, columns_of, seeds_of
from trainers.image.sampling.sampler import InitImage, Previews, init_image_read, sample_images


class ModelKey(NamedTuple):
    """Identifies a base model in memory."""

    sha256: str
    dtype: torch.dtype
    device: torch.device


DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def sample(job: JobContext[SampleImageParams]) -> Outcome:
    """Draws `num_images` images (a comparison: that many per column) into out/samples/.

    The base model may stay in memory for the next job; its adaptors are removed at the end.
    """
    single_process_check(job.processes, job.spec.method)
    key = _key_of(job)
    was_in_memory = job.models.holds(key)
    bare: Base = job.models.get(key, lambda: load_base(job.model, key.dtype, key.device))
    try:
        return _sample(job, bare, was_in_memory=was_in_memory)
    finally:
        adaptors_remove(bare)


def _sample(job: JobContext[SampleImageParams], bare: Base, *, was_in_memory: bool) -> Outcome:
    params, control = job.params, job.control
    _family_check(bare, params)
    init = init_image_read(job.dataset, params, image_family(bare.family).pixel_multiple)
    adapted, trained_skip = _with_adaptors(bare, job)
    skip = trained_skip if params.clip_skip is None else params.clip_skip
    settings = TextSettings(skip, params.max_sequence_length)
    columns = columns_of(params, job.spec.inputs.adaptors)
    details = {
        "device": str(bare.network.device),
        "process": os.getpid(),
        "was_in_memory": was_in_memory,
        "clip_skip": skip,
    }
    job.reporter.emit(Started(total=len(columns) * params.num_images, details=details))
    writer = SampleWriter(job)
    images: dict[str, list[Image.Image]] = {}
    for index, column in enumerate(columns):
        adaptors_switch(bare, on=column.with_adaptors)
        on_progress = _progress_reporter(job.reporter, column=index, columns=len(columns))
        base = adapted if column.with_adaptors else bare
        images[column.label] = _draw(base, column, params, settings, init, writer, on_progress, control.stop_is_wanted)
        if not images[column.label]:
            if command := control.agree():
                control.obeyed(command, writer.num_finished)
            break
        writer.write(column, images[column.label])
    job.facts["steps"] = writer.num_finished
    if writer.num_finished < len(columns) * params.num_images:
        return "stopped"
    if params.compare:
        writer.comparison_write(images)
    return "succeeded"


def _draw(
    base: Base,
    column: Column,
    params: SampleImageParams,
    settings: TextSettings,
    init: InitImage | None,
    writer: SampleWriter,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[Image.Image]:
    """One column's images; an empty list after a stop."""

    def show(done: int, images: list[Image.Image]) -> None:
        writer.preview_write(column, done, images)

    return sample_images(
        base,
        prompts=[column.prompt] * params.num_images,
        negative_prompt=params.negative_prompt,
        seeds=seeds_of(params),
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance(base.family),
        guidance_rescale=params.guidance_rescale,
        width=init.image.width if init else params.width,
        height=init.image.height if init else params.height,
        scheduler=params.scheduler,
        settings=settings,
        init=init,
        previews=Previews(params.intermediate_every, show) if params.intermediate_every else None,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _key_of(job: JobContext[SampleImageParams]) -> ModelKey:
    model = job.spec.inputs.model
    assert model is not None, "JobSpec refuses a job without its base model"
    return ModelKey(model.sha256, DTYPES[job.params.mixed_precision], job.processes.device)


def _family_check(base: Base, params: SampleImageParams) -> None:
    """Checks that need the base model."""
    problem = params.family_problem(base.family)
    guidance_scale = params.guidance_scale
    if base.family == "flux" and guidance_scale is not None and not base.network.config.guidance_embeds:
        problem = (
            f"guidance_scale={guidance_scale} does nothing for this Flux model, which has no guidance embedding; "
            "leave it out"
        )
    if problem:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)


def _with_adaptors(bare: Base, job: JobContext[SampleImageParams]) -> Adapted:
    inputs = job.spec.inputs
    assert inputs.model is not None
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    scales = job.params.adaptor_scales or (1.0,) * len(inputs.adaptors)
    return adaptors_apply(bare, inputs.model, inputs.adaptors, folders, scales)


def _progress_reporter(reporter: Reporter, *, column: int, columns: int) -> Callable[[int, int], None]:
    """Reports denoising steps over all columns."""

    def report(done: int, total: int) -> None:
        reporter.emit(Progress(stage="denoising", done=column * total + done, total=columns * total))

    return report
