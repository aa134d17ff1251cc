"""Methods `fetch_model` and `import_model`: base models from a Hub, and from single-file checkpoints.

A single file becomes a model in diffusers' layout. What it lacks comes from a base of its family or from a Hub.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from formats.models.safetensors_header import Header, HeaderError
from formats.models.single_file import Checkpoint, CheckpointError, checkpoint_file, index_of, scheduler_of
from formats.models.single_file_configs import configs_of
from foundation.atomic import json_write
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.fetch import FetchModelParams, FetchParams, ImportModelParams
from trainers.core.context import JobContext, Outcome
from trainers.core.hub.fetching import Kind, fetch_into, files_fetch
from trainers.image.models.families import family_of, load_base, stored_dtype
from trainers.image.models.single_file import part_tensors
from trainers.text.models.families import config_read
from trainers.text.models.families import family_of as text_family_of

COPIED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of a part that the single file lacks."""
T5_OF_SD3 = ("text_encoder_3", "tokenizer_3")
"""SD3 works without."""
OTHER_VARIANTS = ("*.fp16*", "*.non_ema*", "*.bin", "*.msgpack", "*.h5", "*.onnx*", "*.xml", "*.pb")
"""The same weights again, in other formats and precisions."""
COMPONENTS = Kind("model", "components", (".safetensors", ".json", ".txt", ".model"), ReasonCode.BAD_BASE_MODEL)


def fetch_model(job: JobContext[FetchParams]) -> Outcome:
    """out/model: the repository's files. The family is checked before the weights are fetched."""
    return fetch_into(job, MODEL)


def _requested_family_check(folder: Path, params: FetchParams) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) where the configuration names another family than requested, or none of ours.

    The catalog checks again when the files are published.
    """
    assert isinstance(params, FetchModelParams)
    is_pipeline = (folder / "model_index.json").is_file()
    family = family_of(folder).name if is_pipeline else text_family_of(config_read(folder)).name
    if params.family not in ("", family):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{params.repo} is of family {family}; expected {params.family}.")


MODEL = Kind(
    "model",
    "model",
    (".safetensors", ".json", ".txt", ".model", ".jinja"),
    ReasonCode.BAD_BASE_MODEL,
    first=("model_index.json", "config.json", "text_encoder/config.json"),
    check=_requested_family_check,
)


class Rest(NamedTuple):
    """Where the parts are that the file lacks."""

    source: str
    folder: Path
    place: Callable[[Path, Path], object]
    """Moves or copies a file of `folder` into the result."""


class Plan(NamedTuple):
    """What is written, from the file's header alone."""

    path: Path
    checkpoint: Checkpoint
    configs: dict[str, dict[str, Any]]
    scheduler: dict[str, Any]


def import_model(job: JobContext[ImportModelParams]) -> Outcome:
    """out/model: the parts of the file with its weights, the other parts from elsewhere; then opens it as a check."""
    plan = _plan(job)
    rest = _rest(job, plan.checkpoint)
    if rest is None:
        return "stopped"
    target = job.out / "model"
    target.mkdir(parents=True, exist_ok=True)
    sources = _parts_write(plan, rest, target)
    has_t5 = T5_OF_SD3[0] in sources
    json_write(target / "model_index.json", index_of(plan.checkpoint.family, plan.scheduler, has_t5=has_t5))
    load_base(target, stored_dtype(target))
    job.facts.update(
        family=family_of(target).name,
        imported={
            "file": plan.path.name,
            "parts": sources,
            "prediction_type": plan.scheduler.get("prediction_type", "flow"),
        },
    )
    return "succeeded"


def _rest(job: JobContext[ImportModelParams], checkpoint: Checkpoint) -> Rest | None:
    """None if the job was stopped during the fetch."""
    if job.spec.inputs.model:
        _family_check(checkpoint, family_of(job.model).name)
        return Rest("base", job.model, shutil.copyfile)
    folder = job.out / "components"
    outcome = _components_fetch(job, checkpoint.missing, folder)
    return Rest("hub", folder, os.replace) if outcome == "succeeded" else None


def _components_fetch(job: JobContext[ImportModelParams], missing: tuple[str, ...], folder: Path) -> Outcome:
    """Fills `folder` with the `missing` parts of the repository. Raises TrainerError that names them."""
    params = job.params
    fetch = FetchModelParams(
        name=params.name,
        repo=params.repo,
        revision=params.revision,
        endpoint=params.endpoint,
        allow=tuple(f"{part}/*" for part in missing),
        ignore=OTHER_VARIANTS,
        max_gigabytes=params.max_gigabytes,
    )
    try:
        return files_fetch(job, COMPONENTS, fetch, folder)
    except TrainerError as error:
        message = f"the file lacks {', '.join(missing)}. {error}"
        raise TrainerError(error.reason.code, message, error.reason.detail) from error


def _plan(job: JobContext[ImportModelParams]) -> Plan:
    path = _only_file(job.dataset)
    try:
        checkpoint, header = checkpoint_file(path)
        configs = configs_of(checkpoint, header.tensors)
    except (HeaderError, CheckpointError) as error:
        raise _bad(f"{error}. {error.hint}".removesuffix(" ")) from error
    return Plan(path, checkpoint, configs, _scheduler(checkpoint, header, job.params.prediction_type))


def _scheduler(checkpoint: Checkpoint, header: Header, prediction_type: str) -> dict[str, Any]:
    if checkpoint.is_flow and prediction_type:
        message = f"prediction_type={prediction_type!r} does nothing for {checkpoint.title}, a flow model; leave it out"
        raise TrainerError(ReasonCode.BAD_PARAMETERS, message)
    if checkpoint.needs_prediction_type and not prediction_type:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "the file does not say what Stable Diffusion 2.x was trained to predict; "
            "expected prediction_type=v_prediction (models of 768 pixels) or epsilon (of 512)",
        )
    return scheduler_of(checkpoint, header.tensors, prediction_type)


def _family_check(checkpoint: Checkpoint, base: str) -> None:
    if checkpoint.family != base:
        raise _bad(
            f"the file is a {checkpoint.title} checkpoint, but the base is of family {base}; choose one of its family"
        )


def _parts_write(plan: Plan, rest: Rest, target: Path) -> dict[str, str]:
    """Writes every part but the index; returns where each came from. Raises TrainerError naming all that is missing."""
    needed = [part for part in plan.checkpoint.missing if not (rest.folder / part).is_dir()]
    held = set(plan.checkpoint.parts)
    if absent := [part for part in needed if part not in T5_OF_SD3 or held & set(T5_OF_SD3)]:
        raise _bad(f"neither the file nor the {rest.source} holds {', '.join(absent)}; choose one that does")
    for part, config in plan.configs.items():
        _part_write(target / part, part, part_tensors(plan.path, plan.checkpoint, part, config), config)
    copied = [part for part in plan.checkpoint.missing if part not in needed]
    for part in copied:
        _part_place(rest, part, target / part)
    (target / "scheduler").mkdir(exist_ok=True)
    json_write(target / "scheduler" / "scheduler_config.json", plan.scheduler)
    return {**dict.fromkeys(plan.configs, "file"), **dict.fromkeys(copied, rest.source)}


def _part_write(folder: Path, part: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    name = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    json_write(folder / "config.json", config)


def _part_place(rest: Rest, part: str, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for pattern in COPIED:
        for path in sorted((rest.folder / part).glob(pattern)):
            rest.place(path, target / path.name)


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if len(files) != 1:
        raise _bad(f"expected one .safetensors file in the dataset, got {len(files)}")
    return files[0]


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_BASE_MODEL, message)
