"""Opens a base model folder. The family comes from the folder's own model_index.json, never from the user."""

from pathlib import Path

import torch

from formats.base_model import pipeline_keys_ignored
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.folder_views import bad_files, ignored_log
from trainers.core.special_tokens import special_tokens_check
from trainers.image.models import sd2
from trainers.image.models.base import Base
from trainers.image.models.families import FAMILIES, Family, family_module
from trainers.image.models.parts import model_index, part_config


def load_base(folder: Path, dtype: torch.dtype, device: torch.device | str = "cpu") -> Base:
    """The base model of `folder` (diffusers layout, safetensors) in `dtype`, frozen, on `device`.

    Raises TrainerError(BAD_BASE_MODEL) that names what was found and what is supported.
    """
    family = family_of(folder)
    with bad_files():
        ignored_log(pipeline_keys_ignored(folder))
    base = family.load(folder, dtype, device)
    for index, (tokenizer, encoder) in enumerate(zip(base.tokenizers, base.text_encoders, strict=True), start=1):
        special_tokens_check(tokenizer, int(encoder.config.vocab_size), f"tokenizer {index}")
    return base


def family_of(folder: Path) -> Family:
    """The family of the base model in `folder`: by its pipeline class, 1.x and 2.x by the width of the text encoder."""
    name = model_index(folder).get("_class_name")
    found = [family for family in FAMILIES.values() if name == family.PIPELINE]
    if not found:
        supported = ", ".join(f"{family.TITLE} ({family.PIPELINE})" for family in FAMILIES.values())
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"expected {supported}, found {name or 'no _class_name'} in {folder.name}/model_index.json",
        )
    if name == sd2.PIPELINE and (folder / "text_encoder").is_dir():
        width = part_config(folder, "text_encoder").get("hidden_size")
        return family_module("sd2" if width == sd2.TEXT_WIDTH else "sd1")
    return found[0]
