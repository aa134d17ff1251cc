"""Training that goes on from an adaptor: its pairs are the start, the optimizer is fresh."""

from typing import Any

import torch

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.core.context import JobContext
from trainers.core.lora import TRAINED, lora_layers
from trainers.image.adaptors.layers import live_pairs, plain_name, roots
from trainers.image.adaptors.load import adaptor_read
from trainers.image.adaptors.pairs import Pair, Pairs
from trainers.image.models.base import Base


def start_from_adaptor(job: JobContext[ImageLoraParams], base: Base) -> None:
    """Copies the pairs of the job's adaptor, if it has one, into those in training on `base`.

    TrainerError BAD_PARAMETERS names the parameter by which they differ; BAD_ADAPTOR: it is of another base model.
    """
    inputs = job.spec.inputs
    if not inputs.adaptors:
        return
    (ref,) = inputs.adaptors
    assert inputs.model is not None
    adaptor = adaptor_read(base, weights_folder(job.adaptor(0)))
    base_check(ref, adaptor.metadata, inputs.model)
    _prediction_check(ref, adaptor.metadata, base)
    live = live_pairs(base, TRAINED)
    _pairs_agree(ref, adaptor.pairs, live, job.params)
    if changed := _changed(adaptor.pairs, live):
        job.reporter.emit(Warning_(message=f"adaptor {ref.name} goes on otherwise than it was trained: {changed}"))
    _copy(adaptor.pairs, base)


def _prediction_check(ref: InputRef, metadata: dict[str, str], base: Base) -> None:
    trained, now = metadata.get("prediction_type"), base.scheduler_config.get("prediction_type", "epsilon")
    if trained and trained != now:
        raise _differs(f"adaptor {ref.name} was trained with prediction_type={trained}, got {now}; set it to {trained}")


def _pairs_agree(ref: InputRef, given: Pairs, live: Pairs, params: ImageLoraParams) -> None:
    """Every pair of the adaptor has a place among those in training, which may be more, and of higher rank."""
    places, wanted = _flat(given), _flat(live)
    if strange := sorted(places.keys() - wanted.keys()):
        raise _differs(
            f"adaptor {ref.name} has a pair on {strange[0]}, and {len(strange)} of its {len(places)} layers are not "
            "trained; widen lora_targets, conv_rank or train_text_encoder. What none of them reaches cannot go on"
        )
    for place, pair in places.items():
        expected = wanted[place]
        if pair.rank > expected.rank:
            name = "conv_rank" if pair.down.ndim == 4 and params.conv_rank else "lora_r"
            raise _differs(
                f"adaptor {ref.name} has rank {pair.rank} on {place}, but {name}={expected.rank}; "
                f"set {name}={pair.rank}, or cut it with extract_adaptor"
            )
        if (pair.magnitude_O is None) != (expected.magnitude_O is None):
            was = pair.magnitude_O is not None
            raise _differs(f"adaptor {ref.name} was trained with use_dora={was}; set use_dora={str(was).lower()}")


def _changed(given: Pairs, live: Pairs) -> str:
    """What is not as the adaptor was trained, though its images stay the same; "" where all is."""
    places, wanted = _flat(given), _flat(live)
    fresh = len(wanted.keys() - places.keys())
    wider = sum(pair.rank < wanted[place].rank for place, pair in places.items())
    scaled = sum(abs(pair.scaling / wanted[place].scaling - 1) > 1e-6 for place, pair in places.items())
    found = [
        (fresh, "layers begin without an update"),
        (wider, "get a higher rank"),
        (scaled, "another lora_alpha / lora_r"),
    ]
    return ", ".join(f"{count} {said}" for count, said in found if count)


@torch.no_grad()
def _copy(pairs: Pairs, base: Base) -> None:
    for part, root in roots(base).items():
        for name, layer in lora_layers(root, TRAINED):
            if pair := pairs.get(part, {}).get(plain_name(name)):
                _fill(layer, pair)


def _fill(layer: Any, pair: Pair) -> None:
    """The first ranks do what `pair` did, at the layer's own scaling; the others are as they were made, with B zero."""
    down, up = layer.lora_A[TRAINED].weight, layer.lora_B[TRAINED].weight
    down[: pair.rank].copy_(pair.down)
    up[:, : pair.rank].copy_(pair.up * (pair.scaling / layer.scaling[TRAINED]))
    if pair.magnitude_O is not None:
        lengths = layer.lora_magnitude_vector[TRAINED].weight
        lengths.copy_(pair.magnitude_O.reshape(lengths.shape))


def _flat(pairs: Pairs) -> dict[str, Pair]:
    return {f"{part}.{layer}": pair for part, by_layer in pairs.items() for layer, pair in by_layer.items()}


def _differs(message: str) -> TrainerError:
    return TrainerError(ReasonCode.BAD_PARAMETERS, message)
