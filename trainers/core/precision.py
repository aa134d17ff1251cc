"""The precision that a training computes in: what `auto` means on a device, who may resume it, and TF32 for fp32."""

import torch

from trainers.contract.errors import ReasonCode, TrainerError

NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
FIRST_WITH_TF32 = (8, 0)
"""Compute capability."""


def auto_precision(device: torch.device) -> str:
    """The `mixed_precision` that `auto` resolves to on a device."""
    return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "no"


def recorded_precision_check(precision: str, device: torch.device) -> None:
    """Raises TrainerError(NO_ACCELERATOR) if a job that began in bf16 is resumed on an accelerator without bf16."""
    if precision == "bf16" and device.type == "cuda" and auto_precision(device) != "bf16":
        raise TrainerError(
            ReasonCode.NO_ACCELERATOR,
            "mixed_precision=auto was resolved to bf16 when this job first started, but "
            f"{torch.cuda.get_device_name(device)} does not compute in bf16; resume it on an accelerator that does",
        )


def precision_set(device: torch.device, dtype: torch.dtype) -> str:
    """Allows TF32 matrix products of CUDA exactly where `dtype` is fp32. Returns fp32, tf32, fp16 or bf16."""
    if device.type != "cuda":
        return NAMES[dtype]
    is_fp32 = dtype == torch.float32
    torch.backends.cuda.matmul.allow_tf32 = is_fp32
    return "tf32" if is_fp32 and torch.cuda.get_device_capability(device) >= FIRST_WITH_TF32 else NAMES[dtype]
