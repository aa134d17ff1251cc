"""Training that goes on from an adaptor: its pairs are the start, the optimizer is fresh."""

from typing import Any

import torch

from trainers.adaptors.layers import live_pairs, plain_name, roots
from trainers.adaptors.load import adaptor_read
from trainers.adaptors.of_job import base_check, weights_folder
from trainers.adaptors.pairs import Pair, Pairs
from trainers.errors import ReasonCode, TrainerError
from trainers.lora import TRAINED, lora_layers
from trainers.models.base import Base
from trainers.params.image_lora import ImageLoraParams
from trainers.site import Site
from trainers.spec import InputRef


def start_from_adaptor(site: Site[ImageLoraParams], base: Base) -> None:
    """Copies the pairs of the job's adaptor, if it has one, into those in training on `base`.

    TrainerError BAD_PARAMETERS names the parameter by which they differ; BAD_ADAPTOR: it is of another base model.
    """
    inputs = site.work.spec.inputs
    if not inputs.adaptors:
        return
    (ref,) = inputs.adaptors
    assert inputs.model is not None
    adaptor = adaptor_read(base, weights_folder(site.work.adaptor(0)))
    base_check(ref, adaptor.metadata, inputs.model)
    _prediction_check(ref, adaptor.metadata, base)
    _pairs_agree(ref, adaptor.pairs, live_pairs(base, TRAINED), site.params)
    _copy(adaptor.pairs, base)


def _prediction_check(ref: InputRef, metadata: dict[str, str], base: Base) -> None:
    trained, now = metadata.get("prediction_type"), base.scheduler_config.get("prediction_type", "epsilon")
    if trained and trained != now:
        raise _differs(f"adaptor {ref.name} was trained with prediction_type={trained}, got {now}; set it to {trained}")


def _pairs_agree(ref: InputRef, given: Pairs, live: Pairs, params: ImageLoraParams) -> None:
    places, wanted = _flat(given), _flat(live)
    if differing := sorted(places.keys() ^ wanted.keys()):
        has = "has" if differing[0] in places else "has not"
        raise _differs(
            f"adaptor {ref.name} {has} a pair on {differing[0]} and sits on {len(places)} layers, but the parameters "
            f"ask for {len(wanted)}; set lora_targets, conv_rank and train_text_encoder as it was trained"
        )
    for place, pair in places.items():
        expected = wanted[place]
        if pair.rank != expected.rank:
            name = "conv_rank" if pair.down.ndim == 4 and params.conv_rank else "lora_r"
            raise _differs(
                f"adaptor {ref.name} has rank {pair.rank} on {place}, but {name}={expected.rank}; "
                f"set {name}={pair.rank}"
            )
        if (pair.magnitude_O is None) != (expected.magnitude_O is None):
            was = pair.magnitude_O is not None
            raise _differs(f"adaptor {ref.name} was trained with use_dora={was}; set use_dora={str(was).lower()}")
        if abs(pair.scaling - expected.scaling) > 1e-6 * expected.scaling:
            raise _differs(
                f"adaptor {ref.name} is scaled by {pair.scaling:g}, but lora_alpha / lora_r is {expected.scaling:g}; "
                f"set lora_alpha={pair.scaling * params.lora_r:g}"
            )


@torch.no_grad()
def _copy(pairs: Pairs, base: Base) -> None:
    for part, root in roots(base).items():
        for name, layer in lora_layers(root, TRAINED):
            _fill(layer, pairs[part][plain_name(name)])


def _fill(layer: Any, pair: Pair) -> None:
    layer.lora_A[TRAINED].weight.copy_(pair.down)
    layer.lora_B[TRAINED].weight.copy_(pair.up)
    if pair.magnitude_O is not None:
        lengths = layer.lora_magnitude_vector[TRAINED].weight
        lengths.copy_(pair.magnitude_O.reshape(lengths.shape))


def _flat(pairs: Pairs) -> dict[str, Pair]:
    return {f"{part}.{layer}": pair for part, by_layer in pairs.items() for layer, pair in by_layer.items()}


def _differs(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_PARAMETERS, message)
