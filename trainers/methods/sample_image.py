"""Method `sample_image`: images from text or another image, with a base model and any number of adaptors."""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

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
from trainers.image.models.families import family_module, load_base
from trainers.image.sampling.init_image import start_read
from trainers.image.sampling.sample_writer import Column, SampleWriter, columns_of, seeds_of
from trainers.image.sampling.sampler import Previews, Start, sample_images


class Key(NamedTuple):
    """By which a base model in memory is known again."""

    sha256: str
    dtype: torch.dtype
    device: torch.device


DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def sample(job: JobContext[SampleImageParams]) -> Outcome:
    """Draws `num_images` images (a comparison: that many per column) into out/samples/.

    The base model may stay in memory for the next job; it is left without adaptors.
    """
    single_process_check(job.processes, job.spec.method)
    key = _key_of(job)
    was_there = job.models.holds(key)
    bare: Base = job.models.get(key, lambda: load_base(job.model, key.dtype, key.device))
    try:
        return _sample(job, bare, was_there=was_there)
    finally:
        adaptors_remove(bare)


def _sample(job: JobContext[SampleImageParams], bare: Base, *, was_there: bool) -> Outcome:
    params, control = job.params, job.control
    _family_check(bare, params)
    start = start_read(job.dataset, params, family_module(bare.family).PIXEL_MULTIPLE)
    adapted, trained_skip = _with_adaptors(bare, job)
    skip = trained_skip if params.clip_skip is None else params.clip_skip
    settings = TextSettings(skip, params.max_sequence_length)
    columns = columns_of(params, job.spec.inputs.adaptors)
    details = {
        "device": str(bare.network.device),
        "process": os.getpid(),
        "was_in_memory": was_there,
        "clip_skip": skip,
    }
    job.reporter.emit(Started(total=len(columns) * params.num_images, details=details))
    writer = SampleWriter(job)
    drawn: dict[str, list[Image.Image]] = {}
    for index, column in enumerate(columns):
        adaptors_switch(bare, on=column.with_adaptors)
        tell = _teller(job.reporter, column=index, columns=len(columns))
        base = adapted if column.with_adaptors else bare
        drawn[column.label] = _draw(base, column, params, settings, start, writer, tell, control.stop_is_wanted)
        if not drawn[column.label]:
            if command := control.agree():
                control.obeyed(command, writer.made)
            break
        writer.keep(column, drawn[column.label])
    job.facts["steps"] = writer.made
    if writer.made < len(columns) * params.num_images:
        return "stopped"
    if params.compare:
        writer.compare(drawn)
    return "succeeded"


def _draw(
    base: Base,
    column: Column,
    params: SampleImageParams,
    settings: TextSettings,
    start: Start | None,
    writer: SampleWriter,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[Image.Image]:
    """One column's images; none after a stop."""

    def show(done: int, images: list[Image.Image]) -> None:
        writer.preview(column, done, images)

    return sample_images(
        base,
        prompts=[column.prompt] * params.num_images,
        negative_prompt=params.negative_prompt,
        seeds=seeds_of(params),
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance(base.family),
        guidance_rescale=params.guidance_rescale,
        width=start.image.width if start else params.width,
        height=start.image.height if start else params.height,
        scheduler=params.scheduler,
        settings=settings,
        start=start,
        previews=Previews(params.intermediate_every, show) if params.intermediate_every else None,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _key_of(job: JobContext[SampleImageParams]) -> Key:
    model = job.spec.inputs.model
    assert model is not None, "JobSpec refuses a job without its base model"
    return Key(model.sha256, DTYPES[job.params.mixed_precision], job.processes.device)


def _family_check(base: Base, params: SampleImageParams) -> None:
    """What only the base model can tell of the parameters."""
    problem = params.family_problem(base.family)
    told: Any = params.guidance_scale
    if base.family == "flux" and told is not None and not base.network.config.guidance_embeds:
        problem = (
            f"guidance_scale={told} does nothing for this Flux model, which has no guidance embedding; leave it out"
        )
    if problem:
        raise TrainerError(ReasonCode.BAD_PARAMETERS, problem)


def _with_adaptors(bare: Base, job: JobContext[SampleImageParams]) -> Adapted:
    inputs = job.spec.inputs
    assert inputs.model is not None
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    scales = job.params.adaptor_scales or (1.0,) * len(inputs.adaptors)
    return adaptors_apply(bare, inputs.model, inputs.adaptors, folders, scales)


def _teller(reporter: Reporter, *, column: int, columns: int) -> Callable[[int, int], None]:
    """Counts denoising steps over all columns."""

    def tell(done: int, total: int) -> None:
        reporter.emit(Progress(stage="denoising", done=column * total + done, total=columns * total))

    return tell
