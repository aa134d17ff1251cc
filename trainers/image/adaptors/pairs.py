"""A LoRA adaptor in memory: a pair of matrices for each layer that it changes, and the layers of a base model.

W' = W + (alpha / r) up down (Hu et al. 2021, "LoRA"). With a magnitude: W' = m (W + ...) / ||W + ...||, row by row
(Liu et al. 2024, "DoRA").
"""

# R rank, I inputs, O outputs; a convolution's down has its kernel behind I, its up is 1x1

from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base, part_name

TEXT_PREFIX = "text_model."


@dataclass(frozen=True)
class Pair:
    """The update of one linear or convolution layer; fp32 on the CPU."""

    down: Tensor
    """(R, I) or (R, I, height, width); peft calls it lora_A."""
    up: Tensor
    """(O, R) or (O, R, 1, 1); peft calls it lora_B."""
    alpha: float
    magnitude_O: Tensor | None = None
    """DoRA: the length of each row of the new weight."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


Pairs = dict[str, dict[str, Pair]]
"""By part of the pipeline ("unet", "transformer", "text_encoder", "text_encoder_2"), then by layer. Layers of a text
encoder are named without "text_model.", which only some versions of transformers add."""


def update(pair: Pair) -> Tensor:
    """(alpha / r) up down, shaped as the layer's weight."""
    product_OI = pair.up.flatten(1) @ pair.down.flatten(1)
    return (product_OI * pair.scaling).reshape(-1, *pair.down.shape[1:])


def difference(pair: Pair, weight: Tensor) -> Tensor:
    """W' - W in fp32: everything that the pair adds to `weight`, DoRA's magnitude included."""
    if pair.magnitude_O is None:
        return update(pair)
    original = weight.detach().float().cpu()
    moved = original + update(pair)
    return moved * per_row(pair.magnitude_O / row_norms(moved), moved) - original


def scaled(pair: Pair, scale: float, weight: Tensor) -> Pair:
    """A pair whose difference is `scale` times that of `pair`.

    Scaling alpha alone would leave DoRA's magnitude in place, and scale 0 would not be the base. So with g = 1 - s +
    s m / ||W + D||, W + s (W' - W) = g (W + (s m / (g ||W + D||)) D): each row of `up` is multiplied by its factor, and
    the new magnitude is the length of the resulting row.
    """
    if scale == 1:
        return pair
    if pair.magnitude_O is None:
        return replace(pair, alpha=pair.alpha * scale)
    original = weight.detach().float().cpu()
    ratio_O = pair.magnitude_O / row_norms(original + update(pair))
    gain_O = 1 - scale + scale * ratio_O
    gain_O = torch.where(gain_O.abs() < 1e-6, torch.full_like(gain_O, 1e-6), gain_O)
    moved = replace(pair, up=pair.up * per_row(scale * ratio_O / gain_O, pair.up), magnitude_O=None)
    return replace(moved, magnitude_O=gain_O * row_norms(original + update(moved)))


def row_norms(weight: Tensor) -> Tensor:
    """Length of each output's weights, (O,)."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths


def per_row(values_O: Tensor, like: Tensor) -> Tensor:
    """`values_O` shaped to multiply the rows of `like`."""
    return values_O.reshape(-1, *(1,) * (like.ndim - 1))


def pair_facts(pairs: Pairs) -> dict[str, Any]:
    """For a manifest: layers by part, ranks and alphas that occur, and whether there are DoRA magnitudes."""
    all_pairs = [pair for by_layer in pairs.values() for pair in by_layer.values()]
    return {
        "layers": {part: len(by_layer) for part, by_layer in pairs.items()},
        "ranks": sorted({pair.rank for pair in all_pairs}),
        "alphas": sorted({pair.alpha for pair in all_pairs}),
        "dora": any(pair.magnitude_O is not None for pair in all_pairs),
    }


def roots(base: Base) -> dict[str, nn.Module]:
    """The modules that can have an adaptor, by part: the network and the CLIP text encoders, never T5."""
    encoders = {part_name("text_encoder", index): encoder for index, encoder in enumerate(base.text_encoders)}
    clips = {part: encoder for part, encoder in encoders.items() if type(encoder).__name__.startswith("CLIP")}
    return {base.network_part: base.network, **clips}


def layers(root: nn.Module) -> dict[str, Any]:
    """The linear and convolution layers of `root` by name; for a layer with an adaptor, the layer below it."""
    layers_by_name: dict[str, Any] = {}
    for name, module in root.named_modules():
        if isinstance(module, LoraLayer):
            layers_by_name[plain_name(name)] = module.get_base_layer()
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and ".lora_" not in name and not name.endswith(".base_layer"):
            layers_by_name[plain_name(name)] = module
    return layers_by_name


def plain_name(name: str) -> str:
    return name.removeprefix(TEXT_PREFIX)


def live_pairs(base: Base, adapter: str) -> Pairs:
    """The pairs on `base` under peft's name `adapter`."""
    pairs = {
        part: {
            plain_name(name): _live_pair(module, adapter)
            for name, module in sorted(root.named_modules())
            if isinstance(module, LoraLayer) and adapter in module.lora_A
        }
        for part, root in roots(base).items()
    }
    return {part: by_layer for part, by_layer in pairs.items() if by_layer}


def _live_pair(layer: Any, adapter: str) -> Pair:
    magnitude = layer.lora_magnitude_vector[adapter].weight if adapter in layer.lora_magnitude_vector else None
    return Pair(
        down=_fp32(layer.lora_A[adapter].weight),
        up=_fp32(layer.lora_B[adapter].weight),
        alpha=float(layer.lora_alpha[adapter]),
        magnitude_O=None if magnitude is None else _fp32(magnitude).flatten(),
    )


def _fp32(live: Tensor) -> Tensor:
    return live.detach().float().cpu().contiguous()


def pairs_check(base: Base, pairs: Pairs) -> None:
    """Raises TrainerError(BAD_ADAPTOR) unless every pair belongs to a layer of `base` and has its shape."""
    base_parts = roots(base)
    for part, by_layer in pairs.items():
        if part not in base_parts:
            raise bad(f"the adaptor changes {part}, but the base model has {', '.join(base_parts)}")
        part_layers = layers(base_parts[part])
        for name, pair in by_layer.items():
            if name not in part_layers:
                raise bad(f"{part}.{name} matches no layer of the base model")
            _shape_check(f"{part}.{name}", pair, part_layers[name].weight)


def _shape_check(name: str, pair: Pair, weight: Tensor) -> None:
    down, up = tuple(pair.down.shape), tuple(pair.up.shape)
    shape = tuple((getattr(weight, "quant_state", None) or weight).shape)  # four-bit weights are packed
    if down[1:] != shape[1:] or up[0] != shape[0] or up[1] != down[0] or len(down) != len(up):
        raise bad(f"{name} has lora_A {down} and lora_B {up}, which do not fit the base model's weight {shape}")
    if pair.magnitude_O is not None and len(pair.magnitude_O) != shape[0]:
        raise bad(f"{name} has a DoRA magnitude of {len(pair.magnitude_O)} values; expected {shape[0]}, one per row")


def bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_ADAPTOR, message)
