"""A text job on a TPU."""

from dataclasses import replace

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.context import JobContext
from trainers.optional.module import optional_module


def on_device(job: JobContext[MaskedTextParams]) -> JobContext[MaskedTextParams]:
    """The job on the device of `train_device`. TrainerError MISSING_LIBRARY: no torch_xla."""
    if job.params.train_device != "tpu":
        return job
    try:
        library = optional_module("trainers.optional.torch_xla", "tpu")
    except TrainerError as error:
        raise TrainerError(
            ReasonCode.MISSING_LIBRARY,
            "train_device='tpu' needs torch_xla, which is not installed on this worker; install its release for the "
            "worker's torch",
        ) from error
    return replace(job, processes=replace(job.processes, device=library.device()))
