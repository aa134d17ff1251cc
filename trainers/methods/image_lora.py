"""Method `image_lora`: a LoRA adaptor from images with captions. Builds the parts and calls fit."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Started, Warning_
from trainers.contract.params.image_lora import ImageLoraParams
from trainers.contract.params.image_lora_rules import EVALUATION_SHARE
from trainers.core.choices import choices_make
from trainers.core.context import JobContext, Outcome
from trainers.core.ema import Ema
from trainers.core.global_batch import GlobalBatch
from trainers.core.listeners import listeners_attach
from trainers.core.loop import Hooks, Progress, StepBatch, TrainingPlan, fit
from trainers.core.manifest import manifest_body
from trainers.core.optim import Group, optimizer_of, schedule
from trainers.core.resume import Resumable
from trainers.image.adaptors.card import card_write
from trainers.image.adaptors.save import adaptor_save
from trainers.image.data.batches import MicroBatch, Plan, step_batch, validation_batches
from trainers.image.data.dataset import batch_of, draws_of, plan_of, rows_encode
from trainers.image.data.examples import Examples
from trainers.image.data.rows import Rows, rows_read
from trainers.image.models.base import Base
from trainers.image.models.families import family_module
from trainers.image.sampling.denoise import Prompts
from trainers.image.training.denoising import denoising
from trainers.image.training.drawing import class_images_made, eval_prompts_encode, images_sample, validation_loss
from trainers.image.training.lora_setup import (
    DTYPES,
    Trained,
    base_load,
    encoders_free,
    pairs_attach,
    precision_on,
    prediction_overridden,
    start_from_adaptor,
)

VALIDATION_TIMESTEPS = 4
"""Fixed timesteps at which each held-out image is seen."""


@dataclass(frozen=True)
class Parts:
    """All that a job trains with."""

    base: Base
    trained: Trained
    ema: Ema | None
    rows: Rows
    examples: Examples | None
    """None: a stop was wanted while they were encoded, which fit obeys before its first step."""
    encoded: Prompts | None
    """The eval prompts, where no text encoder is trained."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """As the job's product will be: without dropout, with the moving average where there is one."""
        with ExitStack() as stack:
            stack.enter_context(self.trained.evaluating())
            if self.ema:
                stack.enter_context(self.ema.applied())
            yield


def train(job: JobContext[ImageLoraParams]) -> Outcome:
    """Trains, exports the adaptor (a partial one when stopped) and its card."""
    with ExitStack() as stack:
        params = choices_make(job, job.params, {"mixed_precision": precision_on(job.processes.device)})
        return _train(job.with_params(params), stack)


def _train(job: JobContext[ImageLoraParams], stack: ExitStack) -> Outcome:
    rows = rows_read(job)
    own = base_load(job)
    trained = pairs_attach(own, job.params)
    base = prediction_overridden(own, job.params)
    start_from_adaptor(job, base)
    ema = Ema(trained.parameters, job.params.ema_decay) if job.params.use_ema else None
    resumable = _resumable(job, trained, ema)
    progress = resumable.restore()
    _listen(job, stack, progress.step)
    parts = _parts(job, own, base, trained, ema, rows)
    if parts.examples:
        resumable.inputs_cached(parts.examples.digest())
    training = _training_plan(job, parts, resumable)
    _say_started(job, parts, training, progress, resumable)
    outcome = fit(training, progress, processes=job.processes, control=job.control, reporter=job.reporter)
    if job.processes.rank == 0:
        _export(job, parts, training, progress, outcome, resumable)
    return outcome


def _parts(
    job: JobContext[ImageLoraParams], own: Base, base: Base, trained: Trained, ema: Ema | None, rows: Rows
) -> Parts:
    """Makes and encodes what the training sees, then frees the encoders that it does not need.

    `own` is the base as it came, which knows what it predicts: `base` may be about to learn another prediction type.
    """
    params = job.params
    with trained.resting():
        rows = class_images_made(job, own, rows)
    examples = rows_encode(job, base, rows)
    encoded = eval_prompts_encode(base, params) if params.eval_prompts and not params.train_text_encoder else None
    if examples:
        needs_text = examples.needs_text_encoders or params.train_text_encoder
        encoders_free(base, vae=not (params.eval_prompts or examples.needs_vae), text=not needs_text)
    if params.compile:
        _compile(base, job.processes.device)
    return Parts(base, trained, ema, rows, examples, encoded)


def _compile(base: Base, device: torch.device) -> None:
    """TrainerError BAD_PARAMETERS on the CPU, where torch 2.13 compiles a UNet's backward pass to wrong gradients."""
    if device.type == "cpu":
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            "compile=true needs an accelerator: on the CPU torch's compiler gives wrong gradients; leave compile out",
        )
    base.network.compile()


def _resumable(job: JobContext[ImageLoraParams], trained: Trained, ema: Ema | None) -> Resumable:
    params = job.params
    return Resumable(
        job=job,
        weights=trained.state,
        load_weights=trained.load_state,
        optimizer=optimizer_of(
            params.optimizer,
            [
                Group("network", trained.network, params.rate),
                Group("text_encoder", trained.text_encoders, params.text_encoder_rate),
            ],
            betas=(params.adam_beta1, params.adam_beta2),
            weight_decay=params.adam_weight_decay,
            epsilon=params.adam_epsilon,
        ),
        scaler=torch.amp.GradScaler(job.processes.device.type, enabled=params.mixed_precision == "fp16"),
        keep=params.keep_checkpoints,
        params=params,
        batch=batch_of(params, job.processes.world_size),
        ema=ema,
    )


def _listen(job: JobContext[ImageLoraParams], stack: ExitStack, start_step: int) -> None:
    listeners_attach(
        job,
        stack,
        tensorboard=job.params.log_to_tensorboard,
        wandb=job.params.log_to_wandb,
        wandb_project=job.params.wandb_project,
        start_step=start_step,
    )


def _training_plan(job: JobContext[ImageLoraParams], parts: Parts, resumable: Resumable) -> TrainingPlan[MicroBatch]:
    params, processes, base, rows = job.params, job.processes, parts.base, parts.rows
    plan = plan_of(params, base, rows, resumable.batch)
    total_steps = params.max_train_steps or params.num_train_epochs * plan.steps_per_epoch
    objective = denoising(base, processes.device, params, DTYPES[params.mixed_precision])
    draws = draws_of(base, params)

    def batch(step: int) -> StepBatch[MicroBatch]:
        assert parts.examples is not None
        return step_batch(parts.examples, rows.trained, draws, plan, step, processes.rank, rows.of_class)

    def validate(_step: int) -> dict[str, float]:
        assert parts.examples is not None
        batches = validation_batches(parts.examples, rows.held_out, draws, VALIDATION_TIMESTEPS)
        with parts.shown():
            return {"loss": validation_loss(objective, batches, processes)}

    def evaluate(step: int) -> bool:
        if processes.rank != 0:
            return True
        with parts.shown():
            return images_sample(
                base,
                params,
                step,
                out=job.out,
                reporter=job.reporter,
                should_stop=job.control.stop_is_wanted,
                encoded=parts.encoded,
            )

    return TrainingPlan(
        total_steps=total_steps,
        seed=params.seed,
        batch=batch,
        loss=objective,
        parameters=parts.trained.parameters,
        optimizer=resumable.optimizer,
        schedule=schedule(params.lr_scheduler, warmup_steps=params.warmup_steps, total_steps=total_steps),
        max_grad_norm=params.max_grad_norm,
        scaler=resumable.scaler,
        checkpoint_every=params.checkpoint_every_steps,
        evaluate_every=_evaluate_every(params, plan),
        unit="images",
        save=resumable.save,
        hooks=Hooks(
            evaluate=evaluate if params.eval_prompts else None,
            validate=validate if rows.held_out else None,
            after_update=parts.ema.update if parts.ema else None,
        ),
    )


def _evaluate_every(params: ImageLoraParams, plan: Plan) -> int:
    return params.eval_every_steps or params.eval_every_epochs * plan.steps_per_epoch


def _say_started(
    job: JobContext[ImageLoraParams],
    parts: Parts,
    training: TrainingPlan[MicroBatch],
    progress: Progress,
    resumable: Resumable,
) -> None:
    """What the job is about to do; a warning where it will spend more on sample images than is usual."""
    rows, params = parts.rows, job.params
    trained = training.evaluate_every * resumable.batch.rows
    forwards = params.evaluation_forwards(parts.base.family)
    share = forwards / (forwards + trained)
    if params.eval_prompts and share > EVALUATION_SHARE:
        message = f"sample images every {training.evaluate_every} steps take {share:.0%} of the network's forwards"
        job.reporter.emit(Warning_(message=message))
    details: dict[str, str | int | list[str]] = {
        "device": str(job.processes.device),
        "world_size": job.processes.world_size,
        "family": parts.base.family,
        "images": len(rows.trained),
        "class_images": len(rows.class_images),
        "held_out": [rows.images[index].name for index in rows.held_out],
        "trainable_parameters": sum(parameter.numel() for parameter in parts.trained.parameters),
        "cache_digest": resumable.cache_digest,
    }
    job.reporter.emit(Started(total=training.total_steps, step=progress.step, details=details))


def _resolved(params: ImageLoraParams, training: TrainingPlan[MicroBatch], batch: GlobalBatch) -> dict[str, Any]:
    """The parameters with what stands for none filled in, as other tools' headers say it."""
    return params.model_dump(mode="json") | {
        "learning_rate": params.rate,
        "text_encoder_learning_rate": params.text_encoder_rate if params.train_text_encoder else None,
        "lr_warmup_steps": params.warmup_steps,
        "gradient_accumulation_steps": batch.accumulation,
        "max_train_steps": training.total_steps,
        "num_train_epochs": None if params.max_train_steps else params.num_train_epochs,
        "huber_schedule": "constant" if params.loss_type == "huber" else None,
        "huber_c": params.huber_c if params.loss_type == "huber" else None,
    }


def _export(
    job: JobContext[ImageLoraParams],
    parts: Parts,
    training: TrainingPlan[MicroBatch],
    progress: Progress,
    outcome: Outcome,
    resumable: Resumable,
) -> None:
    """The adaptor with its card. The header says what it takes to load it well; equal jobs give equal bytes."""
    params, base = job.params, parts.base
    model = job.spec.inputs.model
    assert model is not None
    prediction = {"prediction_type": str(base.scheduler_config.get("prediction_type", "epsilon"))}
    if family_module(base.family).IS_FLOW:
        prediction = {}
    job.facts.update(
        steps=progress.step,
        metrics=progress.metrics,
        seconds=progress.seconds,
        cache_digest=resumable.cache_digest,
        family=base.family,
        **prediction,
    )
    skip = {"clip_skip": str(params.clip_skip)} if params.clip_skip else {}
    header = (
        prediction
        | skip
        | {
            "base_sha256": model.sha256,
            "base_name": model.name,
            "name": params.adaptor_name,
            "trigger_word": params.trigger_word,
            "step": str(progress.step),
        }
    )
    resolved = _resolved(params, training, resumable.batch)
    with parts.shown():
        adaptor_save(base, job.out / "adaptor", metadata=header, config=resolved)
    latest = sorted((job.out / "samples").glob(f"step-{progress.step:08d}-*.png"))
    card_write(job.out / "adaptor", manifest_body(job, outcome), latest, effective=resolved)
