"""The products of an `image_lora` job: the adaptor in both formats with its card, and the facts of its manifest."""

from typing import Any

from trainers.contract.params.image_lora import ImageLoraParams
from trainers.core.context import JobContext, Outcome
from trainers.core.distributed import GlobalBatch
from trainers.core.loop import Progress
from trainers.core.manifest import manifest_body
from trainers.core.resume import Resumable
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.file import adaptor_save
from trainers.image.models.base import Base
from trainers.image.models.families import image_family
from trainers.image.training.lora_setup import TrainedModel


def adaptor_export(
    job: JobContext[ImageLoraParams],
    model: TrainedModel,
    resumable: Resumable,
    progress: Progress,
    outcome: Outcome,
    *,
    total_steps: int,
) -> None:
    """Writes out/adaptor and adds to `job.facts`. The file's header says how to use it; equal jobs give equal bytes."""
    prediction = _prediction_type(model.base)
    job.facts.update(
        steps=progress.step,
        metrics=progress.metrics,
        seconds=progress.seconds,
        cache_digest=resumable.cache_digest,
        family=model.base.family,
        **prediction,
    )
    header = prediction | _header(job, progress)
    resolved = _resolved(job.params, resumable.batch, total_steps)
    with model.product_weights():
        adaptor_save(model.base, job.out / "adaptor", metadata=header, config=resolved)
    last_samples = sorted((job.out / "samples").glob(f"step-{progress.step:08d}-*.png"))
    card_write(job.out / "adaptor", manifest_body(job, outcome), last_samples, effective=resolved)


def _prediction_type(base: Base) -> dict[str, str]:
    """{} for flow families, which have only one."""
    if image_family(base.family).is_flow:
        return {}
    return {"prediction_type": str(base.scheduler_config.get("prediction_type", "epsilon"))}


def _header(job: JobContext[ImageLoraParams], progress: Progress) -> dict[str, str]:
    params, model = job.params, job.spec.inputs.model
    assert model is not None
    return {
        **({"clip_skip": str(params.clip_skip)} if params.clip_skip else {}),
        "base_sha256": model.sha256,
        "base_name": model.name,
        "name": params.adaptor_name,
        "trigger_word": params.trigger_word,
        "step": str(progress.step),
    }


def _resolved(params: ImageLoraParams, batch: GlobalBatch, total_steps: int) -> dict[str, Any]:
    """The parameters with defaults filled in for `none`, as the headers of other tools have them."""
    return params.model_dump(mode="json") | {
        "learning_rate": params.rate,
        "text_encoder_learning_rate": params.text_encoder_rate if params.train_text_encoder else None,
        "lr_warmup_steps": params.warmup_steps,
        "gradient_accumulation_steps": batch.accumulation,
        "max_train_steps": total_steps,
        "num_train_epochs": None if params.max_train_steps else params.num_train_epochs,
        "huber_schedule": "constant" if params.loss_type == "huber" else None,
        "huber_c": params.huber_c if params.loss_type == "huber" else None,
    }
