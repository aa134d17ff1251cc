"""A base model's files: safetensors that are whole and finite, no code, and a family that is known."""

from typing import Any

from api.catalog.checking.configs import json_object, text_configs_check
from api.catalog.checking.pipelines import pipeline_check
from api.catalog.checking.report import HINT, Refused
from api.catalog.checking.tensor_files import is_lora, tensor_files_read, tensors_read
from api.catalog.checking.work import Work, ending
from formats.models.configs import PICKLE_ENDINGS, ConfigError
from formats.models.single_file import CheckpointError, checkpoint_of
from formats.models.text_configs import FAMILIES, TextFamily, marked, text_family_of
from formats.models.tokenizer_files import TEXT_MODEL_FILES

CODE = (".py", ".so", ".exe")
EMBEDDINGS = ("wte.weight", "embed_tokens.weight", "word_embeddings.weight", "tok_embeddings.weight")


def check(work: Work) -> dict[str, Any]:
    """{family, components, ...}. Raises Refused that names the file at fault."""
    _pickles_check(work.paths)
    if "model_index.json" in work.paths:
        return pipeline_check(work)
    if "config.json" in work.paths:
        return text_model_check(work)
    _single_file_check(work)
    message = (
        "expected a folder in diffusers format with model_index.json, or a language model with config.json, got none"
    )
    raise Refused(message, code="not_a_model")


def _single_file_check(work: Work) -> None:
    for path in work.paths:
        if ending(path) != ".safetensors":
            continue
        try:
            checkpoint = checkpoint_of(tensors_read(work.open(path), path))
        except CheckpointError as error:
            raise Refused(f"{path}: {error}", code="single_file", hint=error.hint or HINT) from None
        if checkpoint:
            raise Refused(
                f"{path} is a {checkpoint.title} checkpoint in one file, which lacks {', '.join(checkpoint.missing)}",
                code="single_file",
                hint="Use `anneal model add NAME FILE --components-from BASE`, with a base of its family, or "
                "--components-from-hub.",
            )


def _pickles_check(paths: list[str]) -> None:
    for path in paths:
        if ending(path) in PICKLE_ENDINGS:
            raise Refused(
                f"{path}: pickled weights can run code when they are opened; expected .safetensors",
                code="pickle_refused",
                hint="Save the model with safe_serialization=True, then upload again.",
            )
        if ending(path) in CODE:
            raise Refused(f"{path}: a base model may not bring code; leave the file out")


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
                message = f"{path}: the embedding {title[:200]!r} is {tensor.shape[1]} wide, but config.json says"
                raise Refused(f"{message} {family.width} {width}; they are of different models")
