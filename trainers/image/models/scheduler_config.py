"""scheduler_config.json of a base model, checked before anything is trained on it."""

from pathlib import Path
from typing import Any

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.parts import scheduler_config
from trainers.image.models.schedulers import SCHEDULERS

PREDICTIONS = ("epsilon", "v_prediction")
FLOW = "FlowMatchEulerDiscreteScheduler"


def diffusion_scheduler(folder: Path) -> dict[str, Any]:
    """Of a base that was trained to say the noise or the velocity."""
    config = scheduler_config(folder)
    name, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    known = sorted(set(SCHEDULERS) - {FLOW})
    if name not in known:
        raise TrainerError(ReasonCode.BAD_BASE_MODEL, f"expected a scheduler of {', '.join(known)}, found {name}")
    if prediction not in PREDICTIONS:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected prediction_type {' or '.join(PREDICTIONS)}, found {prediction}"
        )
    if config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in SCHEDULERS[name]().config:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL,
            f"the scheduler config says rescale_betas_zero_snr, which {name} would ignore; use DDIMScheduler",
        )
    return config


def flow_scheduler(folder: Path) -> dict[str, Any]:
    """Of a base that was trained by flow matching."""
    config = scheduler_config(folder)
    if config.get("_class_name") != FLOW:
        raise TrainerError(
            ReasonCode.BAD_BASE_MODEL, f"expected the scheduler {FLOW}, found {config.get('_class_name')}"
        )
    return config
