"""Method `import_model`: a single-file checkpoint and a base of its family become a base model in diffusers' layout."""

import shutil
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from formats.single_file import Checkpoint, checkpoint_of
from trainers.atomic import json_write
from trainers.errors import ReasonCode, TrainerError
from trainers.models.load import family_of, load_base
from trainers.models.parts import model_index, part_config
from trainers.models.single_file import part_tensors
from trainers.models.stored_dtype import stored_dtype
from trainers.workspace import Outcome, Workspace

COPIED = ("*.safetensors", "*.json", "*.txt", "*.model")
"""Files of a part that comes from the base."""


def import_model(work: Workspace) -> Outcome:
    """out/model: what the file holds by its own weights, every other part copied from the base; opened to prove it."""
    path = _only_file(work.dataset)
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise _bad(f"{path.name} is not a safetensors file: {error}") from error
    checkpoint = checkpoint_of(state)
    if checkpoint is None:
        raise _bad(f"{path.name} is no checkpoint of SD 1.x, 2.x, XL, SD3 or Flux; its first tensor is {min(state)}")
    _family_check(checkpoint, family_of(work.model).NAME)
    target = work.out / "model"
    target.mkdir(parents=True, exist_ok=True)
    sources = {}
    for part in _parts(work.model):
        if part in checkpoint.parts:
            _part_write(target / part, part, part_tensors(state, checkpoint, part, part_config(work.model, part)), work)
        else:
            _part_copy(work.model / part, target / part)
        sources[part] = "file" if part in checkpoint.parts else "base"
    del state
    shutil.copyfile(work.model / "model_index.json", target / "model_index.json")
    load_base(target, stored_dtype(target))
    work.facts.update(family=family_of(target).NAME, imported={"file": path.name, "parts": sources})
    return "succeeded"


def _family_check(checkpoint: Checkpoint, base: str) -> None:
    alike = {"sd1", "sd2"}  # without a text encoder their networks have the same names
    if checkpoint.family != base and not (
        "text_encoder" not in checkpoint.parts and {checkpoint.family, base} <= alike
    ):
        raise _bad(
            f"the file is a {checkpoint.title} checkpoint, but the base is of family {base}; choose one of its family"
        )


def _parts(base: Path) -> list[str]:
    """Folders of the parts that the base's index names."""
    return [part for part, entry in model_index(base).items() if isinstance(entry, list) and (base / part).is_dir()]


def _part_write(folder: Path, part: str, tensors: dict[str, Tensor], work: Workspace) -> None:
    folder.mkdir(exist_ok=True)
    name = "model" if part.startswith("text_encoder") else "diffusion_pytorch_model"
    save_file(tensors, folder / f"{name}.safetensors", metadata={"format": "pt"})
    json_write(folder / "config.json", part_config(work.model, part))


def _part_copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    for pattern in COPIED:
        for path in sorted(source.glob(pattern)):
            shutil.copyfile(path, target / path.name)


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if len(files) != 1:
        raise _bad(f"expected one .safetensors file in the dataset, found {len(files)}")
    return files[0]


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_BASE_MODEL, message)
