"""A LoRA adaptor in memory: a pair of matrices for each layer that it changes, whatever file it came from.

W' = W + (alpha / r) up down (Hu et al. 2021, "LoRA"). With a magnitude: W' = m (W + ...) / ||W + ...||, row by row
(Liu et al. 2024, "DoRA").
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.models.base import Base, part_name


@dataclass(frozen=True)
class Pair:
    """What an adaptor does to one linear or convolution layer; fp32 on the CPU."""

    down: Tensor
    """(R, I) or (R, I, height, width); peft calls it lora_A."""
    up: Tensor
    """(O, R) or (O, R, 1, 1); peft calls it lora_B."""
    alpha: float
    magnitude_O: Tensor | None = None
    """DoRA's length of each row of the new weight."""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank


Pairs = dict[str, dict[str, Pair]]
"""By part of the pipeline ("unet", "transformer", "text_encoder", "text_encoder_2"), then by layer. Layers of a text
encoder are named without "text_model.", which some versions of transformers have and others have not."""


def update(pair: Pair) -> Tensor:
    """(alpha / r) up down, shaped as the layer's weight."""
    product_OI = pair.up.flatten(1) @ pair.down.flatten(1)
    return (product_OI * pair.scaling).reshape(-1, *pair.down.shape[1:])


def difference(pair: Pair, weight: Tensor) -> Tensor:
    """W' - W in fp32: all that the pair adds to `weight`, DoRA's magnitude too."""
    if pair.magnitude_O is None:
        return update(pair)
    original = weight.detach().float().cpu()
    moved = original + update(pair)
    return moved * rows(pair.magnitude_O / row_norms(moved), moved) - original


def scaled(pair: Pair, scale: float, weight: Tensor) -> Pair:
    """A pair whose difference is `scale` times that of `pair`.

    Scaling alpha alone would leave DoRA's magnitude in place, and scale 0 would not be the base. So with g = 1 - s +
    s m / ||W + D||, W + s (W' - W) = g (W + (s m / (g ||W + D||)) D): each row of `up` takes its factor, and the new
    magnitude is the length of the row that results.
    """
    if scale == 1:
        return pair
    if pair.magnitude_O is None:
        return replace(pair, alpha=pair.alpha * scale)
    original = weight.detach().float().cpu()
    kept_O = pair.magnitude_O / row_norms(original + update(pair))
    gain_O = 1 - scale + scale * kept_O
    gain_O = torch.where(gain_O.abs() < 1e-6, torch.full_like(gain_O, 1e-6), gain_O)
    moved = replace(pair, up=pair.up * rows(scale * kept_O / gain_O, pair.up), magnitude_O=None)
    return replace(moved, magnitude_O=gain_O * row_norms(original + update(moved)))


def row_norms(weight: Tensor) -> Tensor:
    """Length of each output's weights, (O,)."""
    lengths: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return lengths


def rows(values_O: Tensor, like: Tensor) -> Tensor:
    """`values_O` shaped to multiply the rows of `like`."""
    return values_O.reshape(-1, *(1,) * (like.ndim - 1))


def pair_facts(pairs: Pairs) -> dict[str, Any]:
    """Layers by part, ranks and alphas that occur, and whether DoRA's magnitudes are there."""
    every = [pair for by_layer in pairs.values() for pair in by_layer.values()]
    return {
        "layers": {part: len(by_layer) for part, by_layer in pairs.items()},
        "ranks": sorted({pair.rank for pair in every}),
        "alphas": sorted({pair.alpha for pair in every}),
        "dora": any(pair.magnitude_O is not None for pair in every),
    }


TEXT_PREFIX = "text_model."


def roots(base: Base) -> dict[str, nn.Module]:
    """The network and the CLIP text encoders by the names of their parts; T5 never has an adaptor."""
    encoders = {part_name("text_encoder", index): encoder for index, encoder in enumerate(base.text_encoders)}
    clips = {part: encoder for part, encoder in encoders.items() if type(encoder).__name__.startswith("CLIP")}
    return {base.network_part: base.network, **clips}


def layers(root: nn.Module) -> dict[str, Any]:
    """The linear and convolution layers of `root` by name, as they are below any adaptor."""
    found: dict[str, Any] = {}
    for name, module in root.named_modules():
        if isinstance(module, LoraLayer):
            found[plain_name(name)] = module.get_base_layer()
        elif isinstance(module, (nn.Linear, nn.Conv2d)) and ".lora_" not in name and not name.endswith(".base_layer"):
            found[plain_name(name)] = module
    return found


def plain_name(name: str) -> str:
    return name.removeprefix(TEXT_PREFIX)


def live_pairs(base: Base, adapter: str, state: Mapping[str, Tensor] | None = None) -> Pairs:
    """The pairs that are on `base` under the name `adapter`.

    `state` stands in for the live weights where it is given: `<part>.<layer>.lora_A.weight`, `.lora_B.weight` and
    `.lora_magnitude_vector`, as EMA keeps them.
    """
    given = {_plain_key(key): value for key, value in (state or {}).items()}
    found = {
        part: {
            plain_name(name): _pair(module, adapter, given, f"{part}.{plain_name(name)}")
            for name, module in sorted(root.named_modules())
            if isinstance(module, LoraLayer) and adapter in module.lora_A
        }
        for part, root in roots(base).items()
    }
    return {part: pairs for part, pairs in found.items() if pairs}


def pairs_check(base: Base, pairs: Pairs) -> None:
    """Every pair must sit on a layer of `base` and have its shape. Raises TrainerError(BAD_ADAPTOR)."""
    known_parts = roots(base)
    for part, by_layer in pairs.items():
        if part not in known_parts:
            raise _bad(f"the adaptor changes {part}, but the base model has {', '.join(known_parts)}")
        known = layers(known_parts[part])
        for name, pair in by_layer.items():
            if name not in known:
                raise _bad(f"{part}.{name} matches no layer of the base model")
            _shape_check(f"{part}.{name}", pair, known[name].weight)


def _pair(layer: Any, adapter: str, given: Mapping[str, Tensor], name: str) -> Pair:
    def value(key: str, live: Tensor) -> Tensor:
        return given.get(f"{name}.{key}", live).detach().float().cpu().contiguous()

    magnitude = layer.lora_magnitude_vector[adapter].weight if adapter in layer.lora_magnitude_vector else None
    return Pair(
        down=value("lora_A.weight", layer.lora_A[adapter].weight),
        up=value("lora_B.weight", layer.lora_B[adapter].weight),
        alpha=float(layer.lora_alpha[adapter]),
        magnitude_O=None if magnitude is None else value("lora_magnitude_vector", magnitude).flatten(),
    )


def _plain_key(key: str) -> str:
    """`<part>.<layer>...` without the text_model. of a text encoder, and without .weight behind a magnitude."""
    part, _, rest = key.partition(".")
    rest = plain_name(rest)
    return f"{part}.{rest.removesuffix('.weight') if 'magnitude' in rest else rest}"


def _shape_check(name: str, pair: Pair, weight: Tensor) -> None:
    down, up = tuple(pair.down.shape), tuple(pair.up.shape)
    shape = tuple((getattr(weight, "quant_state", None) or weight).shape)  # four-bit weights lie packed
    if down[1:] != shape[1:] or up[0] != shape[0] or up[1] != down[0] or len(down) != len(up):
        raise _bad(f"{name} has lora_A {down} and lora_B {up}, which do not fit the base model's weight {shape}")
    if pair.magnitude_O is not None and len(pair.magnitude_O) != shape[0]:
        raise _bad(f"{name} has a DoRA magnitude of {len(pair.magnitude_O)} values; expected {shape[0]}, one per row")


def _bad(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_ADAPTOR, message)
