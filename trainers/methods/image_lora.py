"""Method `image_lora`: trains a LoRA adaptor on images with captions. Builds the parts and calls fit."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Started, Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.image_lora_rules import EVALUATION_SHARE
from trainers.core.context import JobContext, Outcome
from trainers.core.device import auto_precision, precision_set, recorded_precision_check
from trainers.core.loop import Hooks, Progress, StepBatch, TrainingPlan, fit
from trainers.core.optim import Ema, Group, optimizer_of, schedule
from trainers.core.reporting import listeners_attach
from trainers.core.resume import Resumable, choices_make
from trainers.image.data.batches import MicroBatch, step_batch, validation_batches
from trainers.image.data.dataset import Rows, batch_of, draw_settings_of, plan_of, rows_encode, rows_read
from trainers.image.data.examples import Examples
from trainers.image.models.base import Base
from trainers.image.sampling.denoise import Prompts
from trainers.image.training.compiling import blocks_compile
from trainers.image.training.denoising import denoising, validation_loss
from trainers.image.training.drawing import class_images_draw, eval_images_draw, eval_prompts_encode
from trainers.image.training.export import adaptor_export
from trainers.image.training.lora_setup import (
    DTYPES,
    TrainedLora,
    TrainedModel,
    base_load,
    encoders_unload,
    pairs_attach,
    pairs_init_from_adaptor,
    with_prediction_type,
)

VALIDATION_TIMESTEPS = 4
"""Fixed timesteps at which the loss of each held-out image is measured."""


@dataclass(frozen=True)
class _Data:
    rows: Rows
    examples: Examples | None
    """None: a stop was requested during the encoding; fit obeys it before its first step."""
    eval_prompts: Prompts | None
    """None: there are no eval prompts, or a text encoder is trained."""


def train(job: JobContext[ImageLoraParams]) -> Outcome:
    """Trains, exports the adaptor (a partial one when stopped) and its card."""
    with ExitStack() as stack:
        device = job.processes.device
        params = choices_make(job, job.params, {"mixed_precision": auto_precision(device)})
        if job.params.mixed_precision == "auto":
            recorded_precision_check(params.mixed_precision, device)
        job.facts["precision"] = precision_set(device, DTYPES[params.mixed_precision])
        return _train(job.with_params(params), stack)


def _train(job: JobContext[ImageLoraParams], stack: ExitStack) -> Outcome:
    params = job.params
    rows = rows_read(job)
    pretrained = base_load(job)
    base = with_prediction_type(pretrained, params)
    lora = pairs_attach(base, params)
    pairs_init_from_adaptor(job, base)
    model = TrainedModel(base, lora, Ema(lora.parameters, params.ema_decay) if params.use_ema else None)
    resumable = _resumable(job, model)
    progress = resumable.restore()
    listeners_attach(
        job,
        stack,
        tensorboard=params.log_to_tensorboard,
        wandb=params.log_to_wandb,
        wandb_project=params.wandb_project,
        start_step=progress.step,
    )
    data = _encode(job, base, _with_class_images(job, pretrained, lora, rows))
    if params.compile:
        _compile(base, params, job.processes.device)
    if data.examples:
        resumable.inputs_cached(data.examples.digest())
    training = _training_plan(job, model, data, resumable)
    _started_emit(job, model, data, training, progress, resumable)
    outcome = fit(training, progress, processes=job.processes, control=job.control, reporter=job.reporter)
    if job.processes.rank == 0:
        adaptor_export(job, model, resumable, progress, outcome, total_steps=training.total_steps)
    return outcome


def _resumable(job: JobContext[ImageLoraParams], model: TrainedModel) -> Resumable:
    params, lora = job.params, model.lora
    return Resumable(
        job=job,
        weights=lora.state,
        load_weights=lora.load_state,
        optimizer=optimizer_of(
            params.optimizer,
            [
                Group("network", lora.network, params.rate),
                Group("text_encoder", lora.text_encoders, params.text_encoder_rate),
            ],
            betas=(params.adam_beta1, params.adam_beta2),
            weight_decay=params.adam_weight_decay,
            epsilon=params.adam_epsilon,
        ),
        scaler=torch.amp.GradScaler(job.processes.device.type, enabled=params.mixed_precision == "fp16"),
        keep=params.keep_checkpoints,
        params=params,
        batch=batch_of(params, job.processes.world_size),
        ema=model.ema,
    )


def _with_class_images(job: JobContext[ImageLoraParams], pretrained: Base, lora: TrainedLora, rows: Rows) -> Rows:
    """Class images show what the base model knew before the training: no pairs, and its own prediction type."""
    with lora.disabled():
        return class_images_draw(job, pretrained, rows)


def _encode(job: JobContext[ImageLoraParams], base: Base, rows: Rows) -> _Data:
    """Encodes images, captions and eval prompts, then unloads the encoders that the training does not need."""
    params = job.params
    examples = rows_encode(job, base, rows)
    prompts = eval_prompts_encode(base, params) if params.eval_prompts and not params.train_text_encoder else None
    if examples:
        needs_text = examples.needs_text_encoders or params.train_text_encoder
        encoders_unload(base, vae=not (params.eval_prompts or examples.needs_vae), text=not needs_text)
    return _Data(rows, examples, prompts)


def _compile(base: Base, params: ImageLoraParams, device: torch.device) -> None:
    """TrainerError BAD_PARAMETERS on the CPU, where torch 2.13 compiles a UNet's backward pass to wrong gradients."""
    if device.type == "cpu":
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "compile=true needs an accelerator: on the CPU torch's compiler gives wrong gradients; leave compile out",
        )
    blocks_compile(base.network, dynamic=params.aspect_ratio_buckets)


def _training_plan(
    job: JobContext[ImageLoraParams], model: TrainedModel, data: _Data, resumable: Resumable
) -> TrainingPlan[MicroBatch]:
    params, processes, base, rows = job.params, job.processes, model.base, data.rows
    plan = plan_of(params, base, rows, resumable.batch)
    total_steps = params.max_train_steps or params.num_train_epochs * plan.steps_per_epoch
    objective = denoising(base, processes.device, params, DTYPES[params.mixed_precision])
    draws = draw_settings_of(base, params)

    def batch(step: int) -> StepBatch[MicroBatch]:
        assert data.examples is not None
        return step_batch(data.examples, rows.trained, draws, plan, step, processes.rank, rows.of_class)

    def validate(_step: int) -> dict[str, float]:
        assert data.examples is not None
        batches = validation_batches(data.examples, rows.held_out, draws, VALIDATION_TIMESTEPS)
        with model.product_weights():
            return {"loss": validation_loss(objective, batches, processes)}

    def evaluate(step: int) -> bool:
        if processes.rank != 0:
            return True
        with model.product_weights():
            return eval_images_draw(job, base, step, data.eval_prompts)

    return TrainingPlan(
        total_steps=total_steps,
        seed=params.seed,
        batch=batch,
        loss=objective,
        parameters=model.lora.parameters,
        optimizer=resumable.optimizer,
        schedule=schedule(params.lr_scheduler, warmup_steps=params.warmup_steps, total_steps=total_steps),
        max_grad_norm=params.max_grad_norm,
        scaler=resumable.scaler,
        checkpoint_every=params.checkpoint_every_steps,
        evaluate_every=params.eval_every_steps or params.eval_every_epochs * plan.steps_per_epoch,
        unit="images",
        save=resumable.save,
        hooks=Hooks(
            evaluate=evaluate if params.eval_prompts else None,
            validate=validate if rows.held_out else None,
            after_update=model.ema.update if model.ema else None,
        ),
    )


def _started_emit(
    job: JobContext[ImageLoraParams],
    model: TrainedModel,
    data: _Data,
    training: TrainingPlan[MicroBatch],
    progress: Progress,
    resumable: Resumable,
) -> None:
    """Emits `started`, after a warning if sample images take an unusual share of the computation."""
    rows, params = data.rows, job.params
    trained_images = training.evaluate_every * resumable.batch.rows
    forwards = params.evaluation_forwards(model.base.family)
    share = forwards / (forwards + trained_images)
    if params.eval_prompts and share > EVALUATION_SHARE:
        message = f"sample images every {training.evaluate_every} steps take {share:.0%} of the network's forwards"
        job.reporter.emit(Warning_(message=message))
    details: dict[str, str | int | list[str]] = {
        "device": str(job.processes.device),
        "world_size": job.processes.world_size,
        "precision": job.facts["precision"],
        "family": model.base.family,
        "images": len(rows.trained),
        "class_images": len(rows.class_images),
        "held_out": [rows.images[index].name for index in rows.held_out],
        "trainable_parameters": sum(parameter.numel() for parameter in model.lora.parameters),
        "cache_digest": resumable.cache_digest,
    }
    job.reporter.emit(Started(total=training.total_steps, step=progress.step, details=details))
