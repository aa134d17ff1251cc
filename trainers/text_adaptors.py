"""A job's adaptors on a job's text model."""

from collections.abc import Sequence
from pathlib import Path

from trainers.adaptors import base_check, weights_folder
from trainers.models.text_base import TextBase
from trainers.models.text_lora import text_adaptor_load
from trainers.spec import InputRef


def text_adaptors_apply(
    base: TextBase, model: InputRef, adaptors: Sequence[InputRef], folders: Sequence[Path], scales: Sequence[float]
) -> None:
    """Puts every adaptor on `base`, active at its scale.

    Raises TrainerError(BAD_ADAPTOR) for one that was trained on another base model, or that does not fit.
    """
    for index, (adaptor, folder, scale) in enumerate(zip(adaptors, folders, scales, strict=True)):
        base_check(adaptor, adaptor.details.get("base_sha256"), model)
        metadata = text_adaptor_load(base, weights_folder(folder), f"adaptor_{index}", scale)
        base_check(adaptor, metadata.get("base_sha256"), model)
