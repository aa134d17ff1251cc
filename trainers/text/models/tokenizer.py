"""Opens the tokenizer of a text model's folder from its data files alone, whatever code the folder brings."""

from pathlib import Path
from typing import Any

import transformers

from trainers.core.folder_views import tokenizer_view
from trainers.core.tokenizer_open import from_view
from trainers.text.models.family import TextFamily


def tokenizer_load(folder: Path, family: TextFamily) -> Any:
    """By the folder's own class if `formats` lists it, by the family's else. Raises TrainerError(BAD_BASE_MODEL)."""
    with tokenizer_view(folder) as (view, files):
        return from_view(_tokenizer_class(files.class_name or family.tokenizer_class, view), view, "the tokenizer")


def _tokenizer_class(name: str, view: Path) -> Any:
    cls = getattr(transformers, name)
    if cls is transformers.PreTrainedTokenizerFast and not (view / "tokenizer.json").is_file():
        return transformers.GPT2Tokenizer if (view / "merges.txt").is_file() else transformers.BertTokenizer
    return cls
