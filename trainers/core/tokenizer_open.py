"""Opens a tokenizer from its cleaned files, whatever the libraries raise."""

from pathlib import Path
from typing import Any

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.core.folder_views import tokenizer_view
from trainers.core.panic import PANIC


def tokenizer_open(cls: Any, folder: Path, part: str) -> Any:
    """The tokenizer in `folder/part` by `cls` of transformers. Raises TrainerError(BAD_BASE_MODEL)."""
    with tokenizer_view(folder, part) as (view, _):
        return from_view(cls, view, part)


def from_view(cls: Any, view: Path, name: str) -> Any:
    try:
        return cls.from_pretrained(view, local_files_only=True)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{name} cannot be read as {cls.__name__}: {error}") from error
