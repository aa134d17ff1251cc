"""Method `merge`: adds adaptors to the weights of a base model; the result is a new base model."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from trainers.contract.events import Progress
from trainers.contract.params.adaptors import MergeParams
from trainers.core.context import JobContext, Outcome
from trainers.core.model_files import base_check, weights_folder
from trainers.core.reporting import Reporter
from trainers.image.adaptors.apply import prediction_override
from trainers.image.adaptors.file import Adaptor, adaptor_read
from trainers.image.adaptors.pairs import bad, difference, layers, roots
from trainers.image.models.base import Base
from trainers.image.models.families import base_save, load_base, stored_dtype
from trainers.text.adaptors.lora import lora_merge, text_adaptors_apply
from trainers.text.models.load import config_dtype, load_text
from trainers.text.models.weights import model_write


def merge(job: JobContext) -> Outcome:
    """Writes out/model in the base's layout and dtype."""
    params, adaptors = job.spec.params, job.spec.inputs.adaptors
    assert isinstance(params, MergeParams)
    scales = params.scales or (1.0,) * len(adaptors)
    job.facts["merged"] = [
        {"name": ref.name, "sha256": ref.sha256, "scale": scale} for ref, scale in zip(adaptors, scales, strict=True)
    ]
    if (job.model / "model_index.json").is_file():
        return _merge_image(job, scales)
    return _merge_text(job, scales)


def _merge_image(job: JobContext, scales: Sequence[float]) -> Outcome:
    base = load_base(job.model, stored_dtype(job.model))
    adaptors = _read(job, base)
    pairs = zip(job.spec.inputs.adaptors, adaptors, strict=True)
    override = prediction_override([(ref, adaptor.metadata) for ref, adaptor in pairs])
    add(base, adaptors, scales, job.reporter)
    merged = replace(base, scheduler_config=base.scheduler_config | override)
    base_save(merged, job.out / "model")
    job.facts.update(family=base.family, **override)
    return "succeeded"


def _merge_text(job: JobContext, scales: Sequence[float]) -> Outcome:
    inputs = job.spec.inputs
    assert inputs.model is not None
    dtype = config_dtype(job.model)
    base = load_text(job.model, dtype)
    folders = [job.adaptor(index) for index in range(len(inputs.adaptors))]
    text_adaptors_apply(base, inputs.model, inputs.adaptors, folders, scales)
    lora_merge(base)
    model_write(base, job.out / "model")
    job.facts.update(family=base.family, was_causal=False, shift=base.shift, dtype=str(dtype).removeprefix("torch."))
    return "succeeded"


def _read(job: JobContext, base: Base) -> list[Adaptor]:
    """Reads and checks every adaptor before the first weight changes."""
    model = job.spec.inputs.model
    assert model is not None
    adaptors = []
    for index, ref in enumerate(job.spec.inputs.adaptors):
        adaptor = adaptor_read(base, weights_folder(job.adaptor(index)))
        base_check(ref, adaptor.metadata, model)
        adaptors.append(adaptor)
    return adaptors


@torch.no_grad()
def add(base: Base, adaptors: Sequence[Adaptor], scales: Sequence[float], reporter: Reporter) -> None:
    """W + the sum of scale (W' - W), each W' computed from the original W, as if the adaptors were active together."""
    changed = sorted({(part, layer) for a in adaptors for part, by_layer in a.pairs.items() for layer in by_layer})
    by_part = {part: layers(root) for part, root in roots(base).items()}
    for done, (part, layer) in enumerate(changed):
        weight = by_part[part][layer].weight
        scaled = zip(adaptors, scales, strict=True)
        pairs = [(a.pairs[part][layer], scale) for a, scale in scaled if layer in a.pairs.get(part, {})]
        total: Tensor = sum((scale * difference(pair, weight) for pair, scale in pairs), torch.zeros(()))
        moved = (weight.float() + total.to(weight.device)).to(weight.dtype)
        if not torch.isfinite(moved).all():
            raise bad(f"{part}.{layer} would have values beyond {weight.dtype} after the merge; lower scales")
        weight.copy_(moved)
        if done % 50 == 0:
            reporter.emit(Progress(stage="merging", done=done, total=len(changed)))
