"""A job's adaptors on a job's text model."""

from collections.abc import Sequence
from pathlib import Path

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.text.adaptors.lora import text_adaptor_load
from trainers.text.models.base import TextBase


def text_adaptors_apply(
    base: TextBase, model: InputRef, adaptors: Sequence[InputRef], folders: Sequence[Path], scales: Sequence[float]
) -> None:
    """Puts every adaptor on `base`, active at its scale; a causal base shifts its logits as they were trained.

    Raises TrainerError(BAD_ADAPTOR) for one that was trained on another base model, that does not fit, or that was
    trained with another shift than its neighbours.
    """
    recipes: list[tuple[str, bool]] = []
    begins: set[bool] = set()
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        metadata = text_adaptor_load(base, weights_folder(folder), f"adaptor_{index}", scale)
        base_check(adaptor, metadata, model)
        if recipe := metadata.get("training_method"):
            recipes.append((adaptor.name, recipe == "dream"))
            begins.add(metadata.get("bos_first") == "true")
    if len({shifted for _, shifted in recipes}) > 1:
        dream = ", ".join(name for name, shifted in recipes if shifted)
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR, f"only {dream} of the adaptors were trained with training_method dream"
        )
    if len(begins) > 1:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            "some of the adaptors were trained with mask_prompt_loss=false, which puts a BOS first",
        )
    if recipes:
        base.shift = recipes[0][1]
        base.bos_first = begins.pop()
