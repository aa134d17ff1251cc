"""The layers of a live base that an adaptor can sit on, and the pairs that sit there."""

from collections.abc import Mapping
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.image.adaptors.pairs import Pair, Pairs
from trainers.image.models.base import Base, part_name

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
