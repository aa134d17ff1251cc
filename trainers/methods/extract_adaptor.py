"""Method `extract_adaptor`: an adaptor of another strength or of a lower rank, made from one that is there."""

from dataclasses import replace

import torch
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.extract_adaptor import ExtractAdaptorParams
from trainers.contract.spec import InputRef
from trainers.core.adaptor_inputs import base_check, weights_folder
from trainers.core.context import JobContext, Outcome
from trainers.core.manifest import manifest_body
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.file import clip_skip_of
from trainers.image.adaptors.load import Adaptor, adaptor_read
from trainers.image.adaptors.pairs import Pair, Pairs, difference, layers, pair_facts, roots, scaled
from trainers.image.adaptors.save import adaptor_write, how_to_use
from trainers.image.models.base import Base
from trainers.image.models.families import load_base
from trainers.image.models.parts import stored_dtype


def extract_adaptor(job: JobContext) -> Outcome:
    """The manifest says how far the new update is from the old one at that scale, relative to its size."""
    params, model = job.spec.params, job.spec.inputs.model
    assert isinstance(params, ExtractAdaptorParams) and model is not None
    (source,) = job.spec.inputs.adaptors
    base = load_base(job.model, stored_dtype(job.model))
    adaptor = adaptor_read(base, weights_folder(job.adaptor(0)))
    base_check(source, adaptor.metadata, model)
    _rank_check(adaptor.pairs, params)
    wanted = _each(base, adaptor.pairs, params, with_rank=False)
    pairs = _each(base, adaptor.pairs, params, with_rank=True)
    job.facts.update(family=base.family, **pair_facts(pairs), **_errors(base, wanted, pairs))
    metadata = _metadata(adaptor, base.family, params, model)
    job.facts.update(trigger_word=metadata["trigger_word"], **how_to_use(metadata))
    told = {"no_metadata": params.no_metadata}
    adaptor_write(base, job.out / "adaptor", pairs, metadata=metadata, config=told)
    own = str(base.scheduler_config.get("prediction_type", "epsilon"))
    card_write(job.out / "adaptor", manifest_body(job, "succeeded"), base_prediction=own)
    return "succeeded"


def _rank_check(pairs: Pairs, params: ExtractAdaptorParams) -> None:
    highest = max(pair.rank for by_layer in pairs.values() for pair in by_layer.values())
    if params.rank and params.rank > highest:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS, f"rank={params.rank} is more than the adaptor's rank of {highest}; lower rank"
        )


def _each(base: Base, pairs: Pairs, params: ExtractAdaptorParams, *, with_rank: bool) -> Pairs:
    def changed(pair: Pair, part: str, layer: str) -> Pair:
        moved = scaled(pair, params.scale, layers(roots(base)[part])[layer].weight)
        return lower_rank(moved, params.rank) if with_rank and params.rank else moved

    return {part: {name: changed(pair, part, name) for name, pair in by.items()} for part, by in pairs.items()}


def _errors(base: Base, wanted: Pairs, found: Pairs) -> dict[str, float | str]:
    """Relative Frobenius errors of the update: of all layers together, and of the layer with the largest."""
    sums = {
        f"{part}.{name}": error_sums(pair, found[part][name], known[name].weight)
        for part, known in ((part, layers(roots(base)[part])) for part in wanted)
        for name, pair in wanted[part].items()
    }
    worst = max(sums, key=lambda name: _relative(*sums[name]))
    missed, size = (sum(pair[i] for pair in sums.values()) for i in (0, 1))
    return {
        "relative_error": _relative(missed, size),
        "worst_layer": worst,
        "worst_relative_error": _relative(*sums[worst]),
    }


def _relative(missed: float, size: float) -> float:
    return float((missed / size) ** 0.5) if size else 0.0


def _metadata(adaptor: Adaptor, family: str, params: ExtractAdaptorParams, model: InputRef) -> dict[str, str]:
    kept: dict[str, str] = {
        key: adaptor.metadata[key] for key in ("trigger_word", "prediction_type") if key in adaptor.metadata
    }
    if skip := clip_skip_of(adaptor.metadata, family):
        kept["clip_skip"] = str(skip)
    own = {"base_sha256": model.sha256, "base_name": model.name, "name": params.adaptor_name}
    return {"trigger_word": adaptor.metadata.get("modelspec.trigger_phrase", "")} | kept | own


def lower_rank(pair: Pair, rank: int) -> Pair:
    """`pair` with its update cut to its `rank` largest singular values; alpha / r and DoRA's magnitude stay.

    The update is never formed: up = Q_u R_u and down' = Q_d R_d, so the values are those of the small R_u R_d'.
    """
    if rank >= pair.rank:
        return pair
    q_up_OR, r_up = torch.linalg.qr(pair.up.flatten(1).double())
    q_down_IR, r_down = torch.linalg.qr(pair.down.flatten(1).double().T)
    left, values, right = torch.linalg.svd(r_up @ r_down.T)
    root_K = values[:rank].sqrt()
    up_OK = q_up_OR @ left[:, :rank] * root_K
    down_KI = root_K[:, None] * (right[:rank] @ q_down_IR.T)
    return replace(
        pair,
        down=down_KI.float().reshape(-1, *pair.down.shape[1:]),
        up=up_OK.float().reshape(len(up_OK), -1, *pair.up.shape[2:]),
        alpha=pair.scaling * len(root_K),
    )


def error_sums(wanted: Pair, found: Pair, weight: Tensor) -> tuple[float, float]:
    """Squared Frobenius norms of what `found` misses of the difference that `wanted` makes, and of that difference."""
    whole = difference(wanted, weight).double()
    missed = whole - difference(found, weight).double()
    return float(missed.square().sum()), float(whole.square().sum())
