"""A job's adaptors as inputs: where the weights lie, and which base model they belong to."""

from collections.abc import Mapping
from pathlib import Path

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.spec import InputRef


def weights_folder(folder: Path) -> Path:
    """The product of a training job holds its weights in `adaptor/`; that folder alone does as well."""
    return folder / "adaptor" if (folder / "adaptor").is_dir() else folder


def base_check(adaptor: InputRef, metadata: Mapping[str, str], model: InputRef) -> None:
    """What the file says; JobSpec has compared what the record says."""
    trained_on = metadata.get("base_sha256")
    if trained_on and trained_on != model.sha256:
        raise TrainerError(
            ReasonCode.BAD_ADAPTOR,
            f"adaptor {adaptor.name} was trained on the base model {trained_on[:12]}, "
            f"but this job's base model {model.name} is {model.sha256[:12]}",
        )
