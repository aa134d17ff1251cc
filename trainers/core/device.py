"""How a training lies on its device: the precision it computes in, quantized frozen layers, and copies of batches."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.optional.libraries import optional_module

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


Quantization = Literal["int8", "nf4"]


def network_quantise(network: Any, kind: Quantization, device: torch.device) -> None:
    """Replaces the linear layers of the repeated blocks in place and moves the rest to `device`.

    Each layer is moved before it is quantised, so `device` never holds the whole network in its first dtype. Layers
    outside the blocks (embeddings of time and position, the last projection) are small and most sensitive: they stay.
    """
    if kind == "nf4":
        quantise = linear_nf4
        network.is_loaded_in_4bit = True  # peft looks here before it looks at the layers
    else:
        quantise = linear_int8
    for name in repeated_linears(network):
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, quantise(network.get_submodule(name), device))
    _rest_move(network, device)


def repeated_linears(network: nn.Module) -> list[str]:
    """Names of the linear layers inside numbered blocks."""
    linears = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return [name for name in linears if any(part.isdigit() for part in name.split("."))]


def _rest_move(network: nn.Module, device: torch.device) -> None:
    """Replaces `network.to`, which diffusers refuses for 4-bit layers on some devices."""
    for module in network.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.device != device:
                parameter.data = parameter.data.to(device)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))


def linear_nf4(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 4-bit NormalFloat (Dettmers et al. 2023, "QLoRA"), frozen.

    The bias, and what it computes in, keep their dtype.
    """
    library = optional_module("bitsandbytes", "quantization")
    linear = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=layer.bias is not None,
        compute_dtype=layer.weight.dtype,
        quant_type="nf4",
        device="meta",
    )
    linear.weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=linear)
    linear.bias = layer.bias
    linear.support_avx512bf16_for_cpu = False  # it would repack the weights in evaluation, which changes bits
    placed: nn.Module = linear.requires_grad_(False).to(device)
    return placed


def linear_int8(layer: nn.Linear, device: torch.device) -> nn.Module:
    """`layer` on `device` with its weight in 8 bits, one scale per output, frozen; activations keep their dtype."""
    library = optional_module("torchao.quantization", "quantization")
    holder = nn.Sequential(layer.to(device))
    library.quantize_(holder, library.Int8WeightOnlyConfig())
    return holder[0].requires_grad_(False)


def to_device(tensor: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Starts the copy: CUDA takes it from pinned memory only without waiting for all work before it."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device=device, dtype=dtype or tensor.dtype, non_blocking=True)
