"""A dataset of kind "weights": one safetensors file with a LoRA or a whole model made elsewhere, to be imported."""

from typing import Any

from api.catalog.checking.report import HINT as REPORT_HINT
from api.catalog.checking.report import Refused
from api.catalog.checking.weights import finite_check, tensors_read
from api.catalog.checking.work import Work, ending
from formats.safetensors_header import Tensors
from formats.single_file import Checkpoint, CheckpointError, checkpoint_of

DOWN = (
    ".lora_A.weight",
    ".lora_down.weight",
    "lora.down.weight",
    "lora_linear_layer.down.weight",
    ".lora_A.default.weight",
)
"""Ends of the first matrix of a pair: PEFT, kohya, and diffusers before PEFT."""
FOREIGN = {
    "LoHa": (".hada_w1_a", ".hada_w1_b", ".hada_w2_a", ".hada_w2_b"),
    "LoKr": (".lokr_w1", ".lokr_w1_a", ".lokr_w2", ".lokr_w2_a"),
    "OFT": (".oft_blocks", ".oft_diag", ".oft_R.weight"),
    "(IA)3": (".on_input", ".ia3_l"),
}
"""Ends by which adaptors of other kinds are known."""
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
    if kind := _foreign_kind(tensors):
        raise Refused(f"{path} holds a {kind}; expected a LoRA", code="not_a_lora", hint=HINT)
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


def _foreign_kind(tensors: Tensors) -> str | None:
    return next((kind for kind, ends in FOREIGN.items() if any(title.endswith(ends) for title in tensors)), None)
