"""Every family of text models by name, and which one a folder is of: its own config.json decides, never the user."""

from pathlib import Path
from typing import Any

from formats.base_model import json_file_read
from formats.text_configs import text_config_clean, text_family_of
from trainers.core.folder_views import bad_files
from trainers.text.models.bert import BERT
from trainers.text.models.causal import LLAMA, QWEN2, QWEN3
from trainers.text.models.dream import DREAM
from trainers.text.models.family import TextFamily
from trainers.text.models.llada import LLADA
from trainers.text.models.modernbert import MODERNBERT

FAMILIES: dict[str, TextFamily] = {
    family.name: family for family in (LLADA, DREAM, BERT, MODERNBERT, LLAMA, QWEN2, QWEN3)
}


def config_read(folder: Path) -> dict[str, Any]:
    """The keys of config.json that are read, or TrainerError(BAD_BASE_MODEL)."""
    with bad_files():
        raw = json_file_read(folder / "config.json", "config.json")
        return text_config_clean(raw, family_of(raw).name).values


def family_of(raw: dict[str, Any]) -> TextFamily:
    """By our own mark, else by `model_type`. Raises TrainerError(BAD_BASE_MODEL) for another."""
    with bad_files():
        return FAMILIES[text_family_of(raw)]
