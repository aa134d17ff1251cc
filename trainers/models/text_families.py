"""Every family of text models by name, and which one a folder is of: its own config.json decides, never the user."""

import json
from pathlib import Path
from typing import Any

from trainers.errors import ReasonCode, TrainerError
from trainers.models.bert import BERT
from trainers.models.causal import LLAMA, QWEN2, QWEN3
from trainers.models.dream import DREAM
from trainers.models.llada import LLADA
from trainers.models.modernbert import MODERNBERT
from trainers.models.text_family import TextFamily

FAMILIES: dict[str, TextFamily] = {
    family.name: family for family in (LLADA, DREAM, BERT, MODERNBERT, LLAMA, QWEN2, QWEN3)
}
MARK = "diffusion"
"""Key in the config.json of a model that we saved: {"family": ..., "mask_id": ..., ...}."""


def config_read(folder: Path) -> dict[str, Any]:
    """config.json of `folder`, or TrainerError(BAD_BASE_MODEL)."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"config.json cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, "config.json is not a JSON object")
    return raw


def family_of(raw: dict[str, Any]) -> TextFamily:
    """By our own mark, else by `model_type` as the checkpoint's authors wrote it."""
    name = marked(raw).get("family") or raw.get("model_type")
    if not isinstance(name, str) or name.lower() not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"config.json: model_type is {name!r}, expected one of {known}")
    return FAMILIES[name.lower()]


def marked(raw: dict[str, Any]) -> dict[str, Any]:
    mark = raw.get(MARK)
    return mark if isinstance(mark, dict) else {}
