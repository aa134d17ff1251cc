"""Language models: config.json, tokenizer and safetensors, as their authors ship them or as our jobs save them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from api.catalog.checking.config_keys import text_configs_check
from api.catalog.checking.lora import is_lora
from api.catalog.checking.report import Refused
from api.catalog.checking.tensor_files import tensor_files_read
from api.catalog.checking.text import json_object
from api.catalog.checking.work import Work
from formats.text_configs import MARK


class Family(NamedTuple):
    is_causal: bool = False
    """Its checkpoints are causal language models, which a training job turns into diffusion models."""
    width: str = "hidden_size"
    positions: str = "max_position_embeddings"
    """Keys of config.json."""


FAMILIES = {
    "llada": Family(width="d_model", positions="max_sequence_length"),
    "dream": Family(),
    "bert": Family(),
    "modernbert": Family(),
    "llama": Family(is_causal=True),
    "qwen2": Family(is_causal=True),
    "qwen3": Family(is_causal=True),
}
"""By `model_type` in small letters; the same as in `trainers.text.models.families`."""
TOKENIZERS = (("tokenizer.json",), ("vocab.txt",), ("vocab.json", "merges.txt"), ("tokenizer.model",))
"""Any of these sets will do."""
EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")


def text_model_check(work: Work) -> dict[str, Any]:
    """{family, was_causal, max_positions, components}. Raises Refused that names the file at fault."""
    config = json_object(work, "config.json")
    mark = config[MARK] if isinstance(config.get(MARK), dict) else {}
    name = _family_name(config, mark)
    family = Family() if mark else FAMILIES[name]
    _tokenizer_check(work.paths)
    text_configs_check(work, name)
    _weights_check(work, config.get(family.width), family)
    positions = config.get(family.positions)
    known = {"max_positions": positions} if type(positions) is int and positions > 0 else {}
    was_causal = bool(mark.get("was_causal", FAMILIES[name].is_causal))
    components = {str(file["path"]): int(file["size"]) for file in work.files}
    return {"family": name, "was_causal": was_causal, **known, "components": components}


def _family_name(config: Mapping[str, Any], mark: Mapping[str, Any]) -> str:
    given = mark.get("family") or config.get("model_type")
    name = given.lower() if isinstance(given, str) else ""
    if name not in FAMILIES:
        said = f"config.json: expected model_type to be one of {', '.join(FAMILIES)}, got {given!r:.100}"
        raise Refused(said, code="unknown_family")
    return name


def _tokenizer_check(paths: list[str]) -> None:
    if not any(all(name in paths for name in names) for names in TOKENIZERS):
        wanted = ", or ".join(" with ".join(names) for names in TOKENIZERS)
        raise Refused(f"expected the tokenizer beside config.json: {wanted}; got none", code="no_tokenizer")


def _weights_check(work: Work, width: Any, family: Family) -> None:
    files = {path: tensors for path, tensors in tensor_files_read(work).items() if not is_lora(tensors)}
    if not files:
        raise Refused("there is no .safetensors file with weights beside config.json")
    for path, tensors in files.items():
        for title, tensor in tensors.items():
            wrong = title.endswith(EMBEDDINGS) and len(tensor.shape) == 2 and type(width) is int
            if wrong and tensor.shape[1] != width:
                said = f"{path}: the embedding {title[:200]!r} is {tensor.shape[1]} wide, but config.json says"
                raise Refused(f"{said} {family.width} {width}; they are of different models")
