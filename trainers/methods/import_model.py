"""Method `import_model`: a single-file checkpoint and a base of its family become a base model in diffusers' layout."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import save_file
from torch import Tensor

from formats.safetensors_header import Header, HeaderError
from formats.single_file import Checkpoint, CheckpointError, checkpoint_file
from formats.single_file_configs import configs_of
from formats.single_file_pipeline import index_of, scheduler_of
from trainers.atomic import json_write
from trainers.errors import ReasonCode, TrainerError
from trainers.models.load import family_of, load_base
from trainers.models.single_file import part_tensors
from trainers.models.stored_dtype import stored_dtype
from trainers.params.import_model import ImportModelParams
from trainers.workspace import Outcome, Workspace

COPIED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of a part that comes from the base."""
T5_OF_SD3 = ("text_encoder_3", "tokenizer_3")
"""SD3 works without."""


class Plan(NamedTuple):
    """What is written, all of it known from the file's header."""

    path: Path
    checkpoint: Checkpoint
    configs: dict[str, dict[str, Any]]
    scheduler: dict[str, Any]


def import_model(work: Workspace) -> Outcome:
    """out/model: what the file holds by its own weights, the other parts copied from the base; opened to prove it."""
    plan = _plan(work)
    _family_check(plan.checkpoint, family_of(work.model).NAME)
    target = work.out / "model"
    target.mkdir(parents=True, exist_ok=True)
    sources = _parts_write(plan, work.model, target)
    has_t5 = T5_OF_SD3[0] in sources
    json_write(target / "model_index.json", index_of(plan.checkpoint.family, plan.scheduler, has_t5=has_t5))
    load_base(target, stored_dtype(target))
    work.facts.update(
        family=family_of(target).NAME,
        imported={
            "file": plan.path.name,
            "parts": sources,
            "prediction_type": plan.scheduler.get("prediction_type", "flow"),
        },
    )
    return "succeeded"


def _plan(work: Workspace) -> Plan:
    params = work.spec.params
    assert isinstance(params, ImportModelParams)
    path = _only_file(work.dataset)
    try:
        checkpoint, header = checkpoint_file(path)
        configs = configs_of(checkpoint, header.tensors)
    except HeaderError as error:
        raise _bad(str(error)) from error
    except CheckpointError as error:
        raise _bad(f"{error}. {error.hint}".removesuffix(" ")) from error
    return Plan(path, checkpoint, configs, _scheduler(checkpoint, header, params.prediction_type))


def _scheduler(checkpoint: Checkpoint, header: Header, prediction_type: str) -> dict[str, Any]:
    if checkpoint.needs_prediction_type and not prediction_type:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "the file does not say what Stable Diffusion 2.x was trained to predict; "
            "expected prediction_type=v_prediction (models of 768 pixels) or epsilon (of 512)",
        )
    return scheduler_of(checkpoint, header.tensors, prediction_type or checkpoint.prediction_type or "epsilon")


def _family_check(checkpoint: Checkpoint, base: str) -> None:
    if checkpoint.family != base:
        raise _bad(
            f"the file is a {checkpoint.title} checkpoint, but the base is of family {base}; choose one of its family"
        )


def _parts_write(plan: Plan, base: Path, target: Path) -> dict[str, str]:
    """Writes every part but the index; returns where each came from. Raises TrainerError naming all that is missing."""
    needed = [part for part in plan.checkpoint.missing if not (base / part).is_dir()]
    held = set(plan.checkpoint.parts)
    if absent := [part for part in needed if part not in T5_OF_SD3 or held & set(T5_OF_SD3)]:
        raise _bad(f"neither the file nor the base holds {', '.join(absent)}; choose a base that does")
    for part, config in plan.configs.items():
        _part_write(target / part, part, part_tensors(plan.path, plan.checkpoint, part, config), config)
    copied = [part for part in plan.checkpoint.missing if part not in needed]
    for part in copied:
        _part_copy(base / part, target / part)
    (target / "scheduler").mkdir(exist_ok=True)
    json_write(target / "scheduler" / "scheduler_config.json", plan.scheduler)
    return {**dict.fromkeys(plan.configs, "file"), **dict.fromkeys(copied, "base")}


def _part_write(folder: Path, part: str, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    name = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    json_write(folder / "config.json", config)


def _part_copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if len(files) != 1:
        raise _bad(f"expected one .safetensors file in the dataset, got {len(files)}")
    return files[0]


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_BASE_MODEL, message)
