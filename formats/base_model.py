"""All configuration files of a base model at once: each is checked, and the keys that are not read are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from formats.image_configs import BY_CLASS, index_clean, part_config_clean, shard_files
from formats.kinds import ConfigError
from formats.scheduler_configs import scheduler_config_clean
from formats.text_configs import text_config_clean
from formats.tokenizer_files import tokenizer_files_read
from foundation.strict_json import json_object_read

MAX_CONFIG_BYTES = 4 << 20
MAX_INDEX_BYTES = 64 << 20


def pipeline_keys_ignored(folder: Path) -> tuple[str, ...]:
    """Of a model in diffusers' layout. Raises ConfigError or JsonError that name file, key, value and expectation."""
    raw = json_file_read(folder / "model_index.json", "model_index.json")
    index, left_out = index_clean(raw)
    ignored = [f"model_index.json {key}" for key in left_out]
    for part, entry in index.items():
        class_name = entry[1] if isinstance(entry, list) and len(entry) == 2 else None
        if not isinstance(class_name, str) or not (folder / part).is_dir():
            continue
        if class_name in BY_CLASS:
            ignored += _part_ignored(folder, part, class_name)
        elif part.startswith("tokenizer"):
            ignored += tokenizer_files_read(folder / part, f"{part}/").ignored
        elif part == "scheduler":
            ignored += _ignored(folder, "scheduler/scheduler_config.json", scheduler_config_clean, allow_infinity=True)
    return tuple(ignored)


def text_keys_ignored(folder: Path, family: str) -> tuple[str, ...]:
    """Of a language model of `family`. Raises ConfigError or JsonError."""
    _, left_out = text_config_clean(json_file_read(folder / "config.json", "config.json"), family)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shard_files(json_file_read(index, index.name, most=MAX_INDEX_BYTES), index.name)
    return (*(f"config.json {key}" for key in left_out), *tokenizer_files_read(folder).ignored)


def json_file_read(path: Path, name: str, *, most: int = MAX_CONFIG_BYTES, **options: bool) -> dict[str, Any]:
    """The object in `path`. Raises ConfigError or JsonError that begin with `name`, or OSError."""
    size = path.stat().st_size
    if size > most:
        raise ConfigError(f"{name} has {size} bytes; at most {most} are read")
    return json_object_read(path.read_bytes(), name, **options)


def _part_ignored(folder: Path, part: str, class_name: str) -> list[str]:
    for path in sorted((folder / part).glob("*.safetensors.index*.json")):
        name = f"{part}/{path.name}"
        shard_files(json_file_read(path, name, most=MAX_INDEX_BYTES), name)
    return _ignored(folder, f"{part}/config.json", lambda raw, name: part_config_clean(raw, class_name, name))


def _ignored(folder: Path, name: str, clean: Callable[[dict[str, Any], str], Any], **options: bool) -> list[str]:
    if not (folder / name).is_file():
        return []
    return [f"{name} {key}" for key in clean(json_file_read(folder / name, name, **options), name).ignored]
