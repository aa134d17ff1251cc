"""A dataset of kind "weights": one safetensors file with a LoRA or a whole model made elsewhere, to be imported."""

from typing import Any

from api.catalog.checking.report import HINT as REPORT_HINT
from api.catalog.checking.report import Refused
from api.catalog.checking.weights import finite_check, tensors_read
from api.catalog.checking.work import Work, ending
from formats.lora_keys import DOWN, other_kind
from formats.safetensors_header import Tensors
from formats.single_file import Checkpoint, CheckpointError, checkpoint_of

HINT = "Only LoRA files can be imported: diffusers, PEFT or kohya."


def is_weight_set(paths: list[str]) -> bool:
    """One safetensors file, perhaps with its configuration beside it."""
    endings = [ending(path) for path in paths]
    return endings.count(".safetensors") == 1 and set(endings) <= {".safetensors", ".json", ".md", ".txt", ""}


def weight_set_check(work: Work) -> dict[str, Any]:
    """{kind, num_modules, ranks} of a LoRA, {kind, checkpoint} of a single-file checkpoint. Raises Refused."""
    path = next(path for path in work.paths if ending(path) == ".safetensors")
    tensors = tensors_read(work.open(path), path)
    finite_check(work.open(path), path, tensors)
    if other := other_kind(tensors):
        raise Refused(f"{path} holds a {other[1]}; expected a LoRA", code="not_a_lora", hint=HINT)
    if checkpoint := _checkpoint(tensors, path):
        return {"kind": "weights", "checkpoint": {"family": checkpoint.family, "parts": sorted(checkpoint.parts)}}
    ranks = {tensor.shape[0] for title, tensor in tensors.items() if title.endswith(DOWN) and tensor.shape}
    if not ranks:
        first = next(iter(tensors), "nothing")
        raise Refused(f"{path} holds no LoRA: the first tensor is {first[:200]!r}", code="not_a_lora", hint=HINT)
    for other in sorted(set(work.paths) - {path}):
        work.notices.add("not used", f"{other} holds no weights and is not used", file=other)
    modules = sum(title.endswith(DOWN) for title in tensors)
    return {"kind": "weights", "num_modules": modules, "ranks": sorted(ranks)}


def _checkpoint(tensors: Tensors, path: str) -> Checkpoint | None:
    try:
        return checkpoint_of(tensors)
    except CheckpointError as error:
        raise Refused(f"{path}: {error}", code="single_file", hint=error.hint or REPORT_HINT) from None
