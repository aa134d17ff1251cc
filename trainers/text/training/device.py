"""Where a text job trains, as `train_device` and `gpu_ids` ask and as the job's resources were given."""

from dataclasses import replace

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.contract.spec import Resources
from trainers.core.distributed import Processes, start_processes
from trainers.optional.module import optional_module


def processes_start(params: MaskedTextParams, resources: Resources) -> Processes:
    """Joins the job's ranks. TrainerError: other resources than the parameters ask for, or no torch_xla."""
    device_check(params, resources)
    if params.train_device != "tpu":
        return start_processes(resources)
    try:
        library = optional_module("trainers.optional.torch_xla", "tpu")
    except TrainerError as error:
        raise TrainerError(
            ReasonCode.MISSING_LIBRARY,
            "train_device='tpu' needs torch_xla, which is not installed on this worker; install its release for the "
            "worker's torch",
        ) from error
    return replace(start_processes(resources), device=library.device())


def device_check(params: MaskedTextParams, resources: Resources) -> None:
    """TrainerError where `train_device` or `gpu_ids` and `resources.accelerators` contradict each other."""
    given = resources.accelerators
    if params.train_device == "cuda" and not resources.num_accelerators:
        raise TrainerError(
            ReasonCode.NO_ACCELERATOR, f"train_device='cuda' needs accelerators, but resources.accelerators={given}"
        )
    if params.train_device in ("cpu", "tpu") and resources.num_accelerators:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"train_device={params.train_device!r} uses no accelerators, but resources.accelerators={given}; ask for 0",
        )
    if params.gpu_ids == "auto":
        return
    wanted = tuple(int(index) for index in params.gpu_ids.split(","))
    if given != wanted:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"gpu_ids={params.gpu_ids!r} wants exactly these accelerators, but resources.accelerators={given}",
        )
