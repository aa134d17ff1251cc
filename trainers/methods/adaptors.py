"""Methods `import_adaptor` and `extract_adaptor`: adaptors from a LoRA file and from another adaptor."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from formats.models.adaptors import clip_skip_of, prediction_type_of
from foundation.digests import sha256_of
from foundation.strict_json import json_read
from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.params.adaptors import ExtractAdaptorParams, ImportAdaptorParams
from trainers.contract.spec import InputRef
from trainers.core.context import JobContext, Outcome
from trainers.core.manifest import manifest_body
from trainers.core.model_files import base_check, weights_folder
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.file import Adaptor, adaptor_read, adaptor_write, how_to_use
from trainers.image.adaptors.pairs import Pair, Pairs, bad, difference, layers, pair_facts, roots, scaled
from trainers.image.models.base import Base
from trainers.image.models.families import image_family, load_base, stored_dtype


def import_adaptor(job: JobContext) -> Outcome:
    """Checks the file against every layer of the base, writes both formats with their alphas, and a card."""
    params, model = job.spec.params, job.spec.inputs.model
    assert isinstance(params, ImportAdaptorParams) and model is not None
    path = _only_file(job.dataset)
    base = load_base(job.model, stored_dtype(job.model))
    adaptor = adaptor_read(base, path.parent)
    metadata = _imported_metadata(base, adaptor, params, model)
    job.facts.update(
        family=base.family,
        imported={"file": path.name, "sha256": sha256_of(path), "format": adaptor.file.format},
        trigger_word=metadata["trigger_word"],
        **pair_facts(adaptor.pairs),
        **how_to_use(metadata),
    )
    config = {"no_metadata": params.no_metadata}
    adaptor_write(base, job.out / "adaptor", adaptor.pairs, metadata=metadata, config=config)
    prediction = str(base.scheduler_config.get("prediction_type", "epsilon"))
    card_write(job.out / "adaptor", manifest_body(job, "succeeded"), base_prediction=prediction)
    return "succeeded"


def _only_file(folder: Path) -> Path:
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    if len(files) != 1:
        present = ", ".join(path.name for path in files[:5]) or "found none"
        raise bad(f"expected one .safetensors file in the dataset, {present}")
    return files[0]


def _imported_metadata(base: Base, adaptor: Adaptor, params: ImportAdaptorParams, model: InputRef) -> dict[str, str]:
    """As a training job writes it; with the file's prediction type if the family can have several."""
    prediction, skip = prediction_type_of(adaptor.metadata), clip_skip_of(adaptor.metadata, base.family)
    has_prediction = prediction and not image_family(base.family).is_flow
    return {
        "base_sha256": model.sha256,
        "base_name": model.name,
        "name": params.adaptor_name,
        "trigger_word": params.trigger_word or trigger_of(adaptor.metadata),
        **({"prediction_type": str(prediction)} if has_prediction else {}),
        **({"clip_skip": str(skip)} if skip else {}),
    }


def trigger_of(metadata: Mapping[str, str]) -> str:
    """The trigger phrase in a file's header, else the one of sd-scripts' tags that every caption had."""
    if phrase := metadata.get("trigger_word") or metadata.get("modelspec.trigger_phrase"):
        return phrase[:100]
    try:
        folders: Any = json_read(metadata.get("ss_tag_frequency", "{}"), "ss_tag_frequency")
        counts = {tag: int(count) for tags in folders.values() for tag, count in tags.items()}
    except (ValueError, AttributeError, TypeError):
        return ""
    most = max(counts.values(), default=0)
    usual = [tag for tag, count in counts.items() if count == most]
    return usual[0].strip()[:100] if len(usual) == 1 else ""


def extract_adaptor(job: JobContext) -> Outcome:
    """Adds to the manifest how far the new update is from the original at that scale, relative to its size."""
    params, model = job.spec.params, job.spec.inputs.model
    assert isinstance(params, ExtractAdaptorParams) and model is not None
    (source,) = job.spec.inputs.adaptors
    base = load_base(job.model, stored_dtype(job.model))
    adaptor = adaptor_read(base, weights_folder(job.adaptor(0)))
    base_check(source, adaptor.metadata, model)
    _rank_check(adaptor.pairs, params)
    exact = _rescaled(base, adaptor.pairs, params.scale)
    pairs = _with_lower_rank(exact, params.rank)
    job.facts.update(family=base.family, **pair_facts(pairs), **_errors(base, exact, pairs))
    metadata = _derived_metadata(adaptor, base.family, params, model)
    job.facts.update(trigger_word=metadata["trigger_word"], **how_to_use(metadata))
    config = {"no_metadata": params.no_metadata}
    adaptor_write(base, job.out / "adaptor", pairs, metadata=metadata, config=config)
    prediction = str(base.scheduler_config.get("prediction_type", "epsilon"))
    card_write(job.out / "adaptor", manifest_body(job, "succeeded"), base_prediction=prediction)
    return "succeeded"


def _rank_check(pairs: Pairs, params: ExtractAdaptorParams) -> None:
    highest = max(pair.rank for by_layer in pairs.values() for pair in by_layer.values())
    if params.rank and params.rank > highest:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS, f"rank={params.rank} is more than the adaptor's rank of {highest}; lower rank"
        )


def _rescaled(base: Base, pairs: Pairs, scale: float) -> Pairs:
    by_part = {part: layers(root) for part, root in roots(base).items()}
    return {
        part: {name: scaled(pair, scale, by_part[part][name].weight) for name, pair in by_layer.items()}
        for part, by_layer in pairs.items()
    }


def _with_lower_rank(pairs: Pairs, rank: int | None) -> Pairs:
    if not rank:
        return pairs
    return {part: {name: lower_rank(pair, rank) for name, pair in by_layer.items()} for part, by_layer in pairs.items()}


def _errors(base: Base, exact: Pairs, pairs: Pairs) -> dict[str, float | str]:
    """Relative Frobenius errors of the update: of all layers together, and of the layer with the largest."""
    by_part = {part: layers(root) for part, root in roots(base).items()}
    sums = {
        f"{part}.{name}": _error_sums(pair, pairs[part][name], by_part[part][name].weight)
        for part, by_layer in exact.items()
        for name, pair in by_layer.items()
    }
    worst = max(sums, key=lambda name: _relative(*sums[name]))
    error, size = (sum(pair[i] for pair in sums.values()) for i in (0, 1))
    return {
        "relative_error": _relative(error, size),
        "worst_layer": worst,
        "worst_relative_error": _relative(*sums[worst]),
    }


def _relative(error: float, size: float) -> float:
    return float((error / size) ** 0.5) if size else 0.0


def _derived_metadata(adaptor: Adaptor, family: str, params: ExtractAdaptorParams, model: InputRef) -> dict[str, str]:
    inherited: dict[str, str] = {
        key: adaptor.metadata[key] for key in ("trigger_word", "prediction_type") if key in adaptor.metadata
    }
    if skip := clip_skip_of(adaptor.metadata, family):
        inherited["clip_skip"] = str(skip)
    new = {"base_sha256": model.sha256, "base_name": model.name, "name": params.adaptor_name}
    return {"trigger_word": adaptor.metadata.get("modelspec.trigger_phrase", "")} | inherited | new


def lower_rank(pair: Pair, rank: int) -> Pair:
    """`pair` with its update truncated to its `rank` largest singular values (Eckart and Young 1936).

    alpha / r and DoRA's magnitude do not change. The update itself is never computed: up = Q_u R_u and down' = Q_d R_d,
    so its singular values are those of the small R_u R_d'.
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


def _error_sums(exact: Pair, approximate: Pair, weight: Tensor) -> tuple[float, float]:
    """Squared Frobenius norms: of the error of `approximate` in the change of `weight`, and of the exact change."""
    change = difference(exact, weight).double()
    error = change - difference(approximate, weight).double()
    return float(error.square().sum()), float(change.square().sum())
