"""A base model's files: safetensors that are whole and finite, no code, and a family that is known."""

from typing import Any

from api.catalog.checking.pipelines import pipeline_check
from api.catalog.checking.report import HINT, Refused
from api.catalog.checking.text_model import text_model_check
from api.catalog.checking.weights import tensors_read
from api.catalog.checking.work import Work, ending
from formats.safetensors_header import PICKLE_ENDINGS
from formats.single_file import CheckpointError, checkpoint_of

CODE = (".py", ".so", ".exe")


def check(work: Work) -> dict[str, Any]:
    """{family, components, ...}. Raises Refused that names the file at fault."""
    _pickles_check(work.paths)
    if "model_index.json" in work.paths:
        return pipeline_check(work)
    if "config.json" in work.paths:
        return text_model_check(work)
    _single_file_check(work)
    said = "expected a folder in diffusers format with model_index.json, or a language model with config.json, got none"
    raise Refused(said, code="not_a_model")


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
