"""What `auto` means where a job runs: chosen at its first start, recorded in its checkpoints, kept by every resume."""

import json
from collections.abc import Mapping
from typing import TypeVar

from trainers.contract.params.base import Params
from trainers.core.checkpoint import newest_checkpoint
from trainers.core.context import JobContext

AnyParams = TypeVar("AnyParams", bound=Params)
AUTO = "auto"


def choices_make(job: JobContext, params: AnyParams, here: Mapping[str, str]) -> AnyParams:
    """`params` with each `auto` replaced: by what the newest checkpoint was trained with, else by what `here` says."""
    before = _recorded(job)
    names = [name for name in here if getattr(params, name) == AUTO]
    return params.model_copy(update={name: before.get(name, here[name]) for name in names})


def choices_of(requested: Params, params: Params) -> dict[str, str]:
    """What stands in `params` where `auto` was requested."""
    values = {name: getattr(params, name) for name in type(params).model_fields if getattr(requested, name) == AUTO}
    return {name: value for name, value in values.items() if value != AUTO}


def _recorded(job: JobContext) -> dict[str, str]:
    """{} at a first start, and where the checkpoint cannot be read, which the restore refuses in its own words."""
    folder = newest_checkpoint(job.checkpoint, job.out / "checkpoints")
    try:
        choices = json.loads((folder / "state.json").read_bytes()).get("choices", {}) if folder else {}
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(choices)
