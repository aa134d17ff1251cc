"""Language models: config.json, tokenizer and safetensors, as their authors ship them or as our jobs save them."""

from typing import Any

from api.catalog.checking.config_keys import text_configs_check
from api.catalog.checking.lora import is_lora
from api.catalog.checking.report import Refused
from api.catalog.checking.tensor_files import tensor_files_read
from api.catalog.checking.text import json_object
from api.catalog.checking.work import Work
from formats.kinds import ConfigError
from formats.text_configs import FAMILIES, TextFamily, marked, text_family_of
from formats.tokenizer_files import TEXT_MODEL_FILES

EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")


def text_model_check(work: Work) -> dict[str, Any]:
    """{family, was_causal, max_positions, components}. Raises Refused that names the file at fault."""
    config = json_object(work, "config.json")
    mark = marked(config)
    try:
        name = text_family_of(config)
    except ConfigError as error:
        raise Refused(str(error), code="unknown_family") from None
    family = TextFamily() if mark else FAMILIES[name]
    _tokenizer_check(work.paths)
    text_configs_check(work, name)
    _weights_check(work, config.get(family.width), family)
    positions = config.get(family.positions)
    sizes = {"max_positions": positions} if type(positions) is int and positions > 0 else {}
    was_causal = bool(mark.get("was_causal", FAMILIES[name].is_causal))
    components = {str(file["path"]): int(file["size"]) for file in work.files}
    return {"family": name, "was_causal": was_causal, **sizes, "components": components}


def _tokenizer_check(paths: list[str]) -> None:
    if not any(all(name in paths for name in names) for names in TEXT_MODEL_FILES):
        expected = ", or ".join(" with ".join(names) for names in TEXT_MODEL_FILES)
        raise Refused(f"expected the tokenizer beside config.json: {expected}; got none", code="no_tokenizer")


def _weights_check(work: Work, width: Any, family: TextFamily) -> None:
    files = {path: tensors for path, tensors in tensor_files_read(work).items() if not is_lora(tensors)}
    if not files:
        raise Refused("there is no .safetensors file with weights beside config.json")
    for path, tensors in files.items():
        for title, tensor in tensors.items():
            wrong = title.endswith(EMBEDDINGS) and len(tensor.shape) == 2 and type(width) is int
            if wrong and tensor.shape[1] != width:
                said = f"{path}: the embedding {title[:200]!r} is {tensor.shape[1]} wide, but config.json says"
                raise Refused(f"{said} {family.width} {width}; they are of different models")
