"""Opens the tokenizer of a text model's folder from its data files alone, whatever code the folder brings."""

import json
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedTokenizerBase

from trainers.errors import ReasonCode, TrainerError
from trainers.models.text_family import TextFamily

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
CONFIG = "tokenizer_config.json"


def tokenizer_load(folder: Path, family: TextFamily) -> Any:
    """The folder's tokenizer by a class of transformers. Raises TrainerError(BAD_BASE_MODEL)."""
    config = _config(folder)
    cls = _tokenizer_class(config.pop("tokenizer_class", None), family, folder)
    config.pop("auto_map", None)
    with tempfile.TemporaryDirectory() as place:
        view = Path(place)  # no config.json, no code: nothing that could send transformers looking elsewhere
        for name in FILES:
            if (folder / name).is_file():
                (view / name).symlink_to((folder / name).resolve())
        (view / CONFIG).write_text(json.dumps(config), encoding="utf-8")
        try:
            return cls.from_pretrained(view, local_files_only=True)
        except Exception as error:  # the libraries raise whatever they like, pyo3's included
            raise TrainerError(
                ReasonCode.BAD_BASE_MODEL, f"the tokenizer cannot be read as {cls.__name__}: {error}"
            ) from error


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        return {}
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{CONFIG} is not JSON: {error}") from error
    return config if isinstance(config, dict) else {}


def _tokenizer_class(named: object, family: TextFamily, folder: Path) -> Any:
    """The class that the folder names where transformers has it, the family's else."""
    cls = getattr(transformers, str(named), None)
    if not (isinstance(cls, type) and issubclass(cls, PreTrainedTokenizerBase)):
        cls = getattr(transformers, family.tokenizer_class)
    if cls is transformers.PreTrainedTokenizerFast and not (folder / "tokenizer.json").is_file():
        return transformers.GPT2Tokenizer if (folder / "merges.txt").is_file() else transformers.BertTokenizer
    return cls
