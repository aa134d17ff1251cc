"""Which modules of a network get LoRA pairs."""

from typing import Literal

from torch import nn

from trainers.contract.errors import ReasonCode, TrainerError

TargetKind = Literal["attention", "attention+ff", "all-linear"]
CLIP_ATTENTION = ("q_proj", "k_proj", "v_proj", "out_proj")


def named_targets(
    network: nn.Module, kind: TargetKind, attention: tuple[str, ...], feed_forward: tuple[str, ...]
) -> list[str]:
    """Full names of linear modules, sorted: those that end as `attention` says, also as `feed_forward` says, or all."""
    endings = {"attention": attention, "attention+ff": attention + feed_forward, "all-linear": ("",)}[kind]
    return sorted(n for n, module in network.named_modules() if isinstance(module, nn.Linear) and n.endswith(endings))


def convolutions(network: nn.Module) -> list[str]:
    """Every convolution but the first and the last of the network, sorted."""
    outer = ("conv_in", "conv_out")
    found = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d) and name not in outer]
    return sorted(found)


def no_convolutions(title: str) -> None:
    raise TrainerError(
        ReasonCode.BAD_PARAMETERS, f"conv_rank has nothing to sit on: {title} has no convolutions; set conv_rank=0"
    )


def clip_targets(encoder: nn.Module) -> list[str]:
    """The four projections of each of CLIP's attention layers."""
    return sorted(
        name
        for name, module in encoder.named_modules()
        if isinstance(module, nn.Linear) and ".self_attn." in name and name.endswith(CLIP_ATTENTION)
    )
