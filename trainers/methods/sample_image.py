"""Method `sample_image`: pictures from text with a base model and any number of adaptors."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from trainers.adaptors import adaptors_apply
from trainers.control import Control
from trainers.distributed import start_processes
from trainers.errors import ReasonCode, TrainerError
from trainers.events import Progress, Sample, Started
from trainers.models.base import Base
from trainers.models.load import load_base
from trainers.params.sample_image import SampleImageParams
from trainers.samplers.image import sample_images
from trainers.samplers.pictures import comparison_sheet, picture_write
from trainers.spec import InputRef
from trainers.tracking import Reporter
from trainers.workspace import Outcome, Workspace

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Column:
    """One way to draw every seed. A plain job has one, a comparison two or three."""

    label: str
    prompt: str
    with_adaptors: bool

    @property
    def slug(self) -> str:
        return self.label.replace(" + ", "-")


def sample(work: Workspace) -> Outcome:
    """Draws `num_images` pictures (a comparison: that many per column) into out/samples/."""
    columns = columns_of(_params(work), work.spec.inputs.adaptors)
    processes = start_processes(work.spec.resources)
    if processes.world_size > 1:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"sample_image runs as one process, got {processes.world_size}; choose resources.strategy='single'",
        )
    reporter = Reporter(work.events)
    control = Control(work.inputs / "control", processes, reporter)
    try:
        bare = load_base(work.model, DTYPES[_params(work).mixed_precision], processes.device)
        adapted = _with_adaptors(bare, work)
        total = len(columns) * _params(work).num_images
        reporter.say(Started(total=total, details={"device": str(processes.device)}))
        drawn = _draw_columns(work, columns, bare, adapted, reporter, control)
        work.facts["steps"] = sum(len(pictures) for pictures in drawn.values())
        if len(drawn) < len(columns):
            return "stopped"
        if _params(work).compare:
            _keep_comparison(work, reporter, drawn)
        return "succeeded"
    finally:
        control.close()


def columns_of(params: SampleImageParams, adaptors: tuple[InputRef, ...]) -> list[Column]:
    """What is drawn: the prompt once, or for a comparison the prompt without, with, and with the trigger words.

    A trigger word that the prompt has already is not put there twice, and makes no column of its own.
    """
    if not params.compare:
        return [Column("picture", params.prompt, with_adaptors=True)]
    assert adaptors, "JobSpec refuses compare without an adaptor"
    columns = [Column("base", params.prompt, with_adaptors=False), Column("adaptor", params.prompt, with_adaptors=True)]
    words = [str(adaptor.details.get("trigger_word") or "") for adaptor in adaptors]
    missing = [word for word in dict.fromkeys(words) if word and word not in params.prompt]
    if missing:
        columns.append(Column("adaptor + trigger", ", ".join([*missing, params.prompt]), with_adaptors=True))
    return columns


def seeds_of(params: SampleImageParams) -> list[int]:
    return [params.seed + i for i in range(params.num_images)]


def _params(work: Workspace) -> SampleImageParams:
    assert isinstance(work.spec.params, SampleImageParams)
    return work.spec.params


def _with_adaptors(bare: Base, work: Workspace) -> Base:
    inputs = work.spec.inputs
    assert inputs.model is not None
    folders = [work.adaptor(index) for index in range(len(inputs.adaptors))]
    return adaptors_apply(bare, inputs.model, inputs.adaptors, folders, _scales(work))


def _scales(work: Workspace) -> tuple[float, ...]:
    return _params(work).adaptor_scales or (1.0,) * len(work.spec.inputs.adaptors)


def _draw_columns(
    work: Workspace, columns: list[Column], bare: Base, adapted: Base, reporter: Reporter, control: Control
) -> dict[str, list[Image.Image]]:
    """Pictures by label, each column kept as soon as it is drawn; fewer columns than asked for after a stop."""
    drawn: dict[str, list[Image.Image]] = {}
    for index, column in enumerate(columns):
        _switch_adaptors(bare, on=column.with_adaptors)
        tell = _teller(reporter, column=index, columns=len(columns))
        base = adapted if column.with_adaptors else bare
        pictures = _draw(base, column, _params(work), tell, control.stop_is_wanted)
        made = index * _params(work).num_images
        if not pictures:
            if command := control.agree():
                control.obeyed(command, made)
            break
        _keep(work, reporter, column, pictures, first=made)
        drawn[column.label] = pictures
    return drawn


def _switch_adaptors(base: Base, *, on: bool) -> None:
    if not getattr(base.network, "peft_config", None):
        return
    if on:
        base.network.enable_adapters()
    else:
        base.network.disable_adapters()


def _teller(reporter: Reporter, *, column: int, columns: int) -> Callable[[int, int], None]:
    """Counts denoising steps over all columns."""

    def tell(done: int, total: int) -> None:
        reporter.say(Progress(stage="denoising", done=column * total + done, total=columns * total))

    return tell


def _draw(
    base: Base,
    column: Column,
    params: SampleImageParams,
    on_progress: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> list[Image.Image]:
    return sample_images(
        base,
        prompts=[column.prompt] * params.num_images,
        negative_prompt=params.negative_prompt,
        seeds=seeds_of(params),
        num_inference_steps=params.num_inference_steps,
        guidance_scale=params.guidance_scale,
        width=params.width,
        height=params.height,
        scheduler=params.scheduler,
        on_progress=on_progress,
        should_stop=should_stop,
    )


def _keep(work: Workspace, reporter: Reporter, column: Column, pictures: list[Image.Image], first: int) -> None:
    """Writes one column's pictures and tells of each; `first` pictures were made before."""
    adaptors = _adaptors_used(work) if column.with_adaptors else []
    for index, (picture, seed) in enumerate(zip(pictures, seeds_of(_params(work)), strict=True)):
        path = f"samples/{column.slug}-seed-{seed}.png"
        picture_write(work.out / path, picture, _facts(work, column.prompt, seed, adaptors))
        reporter.say(
            Sample(
                step=first + index + 1,
                path=path,
                label=column.label,
                prompt=column.prompt,
                seed=seed,
                details={"adaptors": adaptors},
            )
        )


def _keep_comparison(work: Workspace, reporter: Reporter, drawn: dict[str, list[Image.Image]]) -> None:
    params = _params(work)
    sheet = comparison_sheet(drawn, [f"seed {seed}" for seed in seeds_of(params)])
    path = "samples/comparison.png"
    picture_write(work.out / path, sheet, _facts(work, params.prompt, params.seed, _adaptors_used(work)))
    total = len(drawn) * params.num_images
    reporter.say(Sample(step=total, path=path, label="comparison", prompt=params.prompt, seed=params.seed))


def _adaptors_used(work: Workspace) -> list[dict[str, Any]]:
    return [
        {"name": adaptor.name, "sha256": adaptor.sha256, "scale": scale}
        for adaptor, scale in zip(work.spec.inputs.adaptors, _scales(work), strict=True)
    ]


def _facts(work: Workspace, prompt: str, seed: int, adaptors: list[dict[str, Any]]) -> dict[str, Any]:
    """All that it takes to draw a picture again."""
    model = work.spec.inputs.model
    assert model is not None
    return {
        "prompt": prompt,
        "seed": str(seed),
        "parameters": work.spec.params.model_dump(mode="json"),
        "base_model": {"name": model.name, "sha256": model.sha256},
        "adaptors": adaptors,
    }
