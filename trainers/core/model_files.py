"""Files of base models and adaptors.

Libraries see a folder with a base model's cleaned configs and named data files: no uploaded JSON file reaches one
unchanged, `formats` lists the keys that are read.
"""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from formats.models.configs import MAX_INDEX_BYTES, ConfigError, json_file_read, shard_files, value_shown
from formats.models.tokenizer_files import CONFIG, ROLES, TokenizerFiles, tokenizer_files_read
from foundation.strict_json import JsonError
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef

LOG = logging.getLogger(__name__)
NAMED = 30
"""Keys that the log line names; the rest is counted."""


@contextmanager
def bad_files() -> Iterator[None]:
    """Raises TrainerError(BAD_BASE_MODEL) for what `formats` refuses and for files that cannot be read."""
    try:
        yield
    except (ConfigError, JsonError, OSError) as error:
        faults = getattr(error, "faults", (str(error),))
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{faults[0]}{more}", "\n".join(faults)) from error


@contextmanager
def weights_view(folder: Path, part: str, config: dict[str, Any]) -> Iterator[Path]:
    """A folder with `config` as config.json and the safetensors files of `folder/part`."""
    with tempfile.TemporaryDirectory() as place:
        view = Path(place)
        (view / "config.json").write_text(json.dumps(config), encoding="utf-8")
        for path in sorted((folder / part).glob("*.safetensors")):
            (view / path.name).symlink_to(path.resolve())
        for path in sorted((folder / part).glob("*.safetensors.index*.json")):
            name = f"{part}/{path.name}"
            with bad_files():
                places = shard_files(json_file_read(path, name, most=MAX_INDEX_BYTES), name)
            (view / path.name).write_text(json.dumps({"metadata": {}, "weight_map": places}), encoding="utf-8")
        yield view


@contextmanager
def tokenizer_view(folder: Path, part: str = "") -> Iterator[tuple[Path, TokenizerFiles]]:
    """A folder with the cleaned tokenizer of `folder/part`. Raises TrainerError(BAD_BASE_MODEL)."""
    source = folder / part if part else folder
    with bad_files():
        files = tokenizer_files_read(source, f"{part}/" if part else "")
    with tempfile.TemporaryDirectory() as place:
        view = Path(place)
        contents: dict[str, dict[str, Any]] = {CONFIG: {}, **files.json}
        for name, content in contents.items():
            (view / name).write_text(json.dumps(content), encoding="utf-8")
        for name in files.data:
            (view / name).symlink_to((source / name).resolve())
        yield view, files


def ignored_log(ignored: tuple[str, ...]) -> None:
    """One line in the job's log that names the keys that are left out."""
    if ignored:
        more = f" and {len(ignored) - NAMED} more" if len(ignored) > NAMED else ""
        LOG.warning("keys of the base model's files that are not read: %s%s", ", ".join(ignored[:NAMED]), more)


def tokenizer_open(cls: Any, folder: Path, part: str) -> Any:
    """The tokenizer in `folder/part` by `cls` of transformers. Raises TrainerError(BAD_BASE_MODEL)."""
    with tokenizer_view(folder, part) as (view, _):
        return from_view(cls, view, part)


def from_view(cls: Any, view: Path, name: str) -> Any:
    """The tokenizer in a cleaned folder, whatever the libraries raise. `name` is for errors."""
    try:
        return cls.from_pretrained(view, local_files_only=True)
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"{name} cannot be read as {cls.__name__}: {error}") from error


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust panicked: pyo3's class for it cannot be imported and is no Exception."""
    return type(error).__name__ == "PanicException"


def special_tokens_check(tokenizer: Any, vocab_size: int, name: str) -> None:
    """Raises TrainerError(BAD_BASE_MODEL) for a special token without a row in an embedding of `vocab_size` rows."""
    for role in ROLES:
        index = getattr(tokenizer, f"{role}_id", None)
        if index is not None and index >= vocab_size:
            shown = value_shown(getattr(tokenizer, role))
            raise TrainerError(
                ReasonCode.BAD_BASE_MODEL,
                f"{name}: {role} {shown} has the id {index}, expected one below the network's {vocab_size} rows",
            )


def weights_folder(folder: Path) -> Path:
    """The folder with the weights: `adaptor/` in the product of a training job, or `folder` itself."""
    return folder / "adaptor" if (folder / "adaptor").is_dir() else folder


def base_check(adaptor: InputRef, metadata: Mapping[str, str], model: InputRef) -> None:
    """Compares the base model that the file names; JobSpec has compared the one of the record."""
    trained_on = metadata.get("base_sha256")
    if trained_on and trained_on != model.sha256:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            f"adaptor {adaptor.name} was trained on the base model {trained_on[:12]}, "
            f"but this job's base model {model.name} is {model.sha256[:12]}",
        )


ALIGNMENT = 64
"""Bytes. Readers map the file; the alignment of a matrix changes how it is multiplied, and thus the last bits."""


def file_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file, the same for the same tensors and metadata.

    The library itself writes metadata in a random order, and scalars between the matrices.
    """
    plain = save(dict(tensors))
    size = int.from_bytes(plain[:8], "little")
    entries: dict[str, Any] = json.loads(plain[8 : 8 + size])
    body = memoryview(plain)[8 + size :]
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks: list[memoryview] = []
    end = 0
    for name in sorted(entries, key=lambda name: (_is_odd(entries[name]), name)):
        first, last = entries[name]["data_offsets"]
        header[name] = {**entries[name], "data_offsets": [end, end + last - first]}
        chunks.append(body[first:last])
        end += last - first
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    return b"".join([len(text).to_bytes(8, "little"), text, *chunks])


def _is_odd(entry: Mapping[str, Any]) -> bool:
    """Whether it would break the alignment of what follows; such entries go to the end."""
    first, last = entry["data_offsets"]
    return bool((last - first) % ALIGNMENT)
