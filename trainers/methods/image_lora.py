"""Method `image_lora`: a LoRA adaptor from pictures with captions. Builds the parts and calls fit."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import torch
from torch import nn

from trainers.adaptor_save import adaptor_save
from trainers.card import card_write
from trainers.control import Control
from trainers.data.examples import Examples
from trainers.data.image_batches import MicroBatch, step_batch, validation_batches
from trainers.data.image_dataset import draws_of, plan_of, rows_encode
from trainers.data.image_rows import Rows, rows_read
from trainers.denoising import denoising
from trainers.distributed import start_processes
from trainers.evaluation import pictures_sample, validation_loss
from trainers.events import Started
from trainers.family_check import family_check
from trainers.loop import Progress, StepBatch, Task, fit
from trainers.lora import attach, lora_load_state, lora_state
from trainers.manifest import manifest_body
from trainers.models.base import Base
from trainers.models.load import load_base
from trainers.noise import Purpose, integer
from trainers.optim import adamw, schedule
from trainers.params.image_lora import ImageLoraParams
from trainers.resume import Resumable
from trainers.site import Site
from trainers.tracking import Reporter, TensorBoard
from trainers.workspace import Outcome, Workspace

DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VALIDATION_TIMESTEPS = 4
"""Fixed timesteps at which each held-out picture is seen."""


def train(work: Workspace) -> Outcome:
    """Trains, exports the adaptor (a partial one when stopped) and its card."""
    assert isinstance(work.spec.params, ImageLoraParams)
    with ExitStack() as stack:
        processes, reporter = start_processes(work.spec.resources), Reporter(work.events)
        control = Control(work.inputs / "control", processes, reporter)
        stack.callback(control.close)
        return _train(Site(work, work.spec.params, processes, control, reporter), stack)


def _train(site: Site[ImageLoraParams], stack: ExitStack) -> Outcome:
    params = site.params
    rows = rows_read(site)
    base = _base(site)
    parameters = _attached(base, params)
    resumable = _resumable(site, base, parameters)
    progress = resumable.restore()
    if params.log_to_tensorboard and site.processes.rank == 0:
        board = TensorBoard(site.work.out, progress.step)
        stack.callback(board.close)
        site.reporter.listen(board)
    examples = rows_encode(site, base, rows)
    if examples:
        resumable.inputs_cached(examples.digest())
    _free_encoders(base, params, examples)
    task = _task(site, base, rows, examples, resumable, parameters)
    site.reporter.say(
        Started(total=task.total_steps, step=progress.step, details=_details(site, rows, parameters, resumable))
    )
    outcome = fit(task, progress, processes=site.processes, control=site.control, reporter=site.reporter)
    if site.processes.rank == 0:
        _export(site, base, progress, outcome, resumable.cache_digest)
    return outcome


def _base(site: Site[ImageLoraParams]) -> Base:
    """The base model in the compute dtype; an override of the prediction type holds for training and sampling."""
    params = site.params
    base = load_base(site.work.model, DTYPES[params.mixed_precision], site.processes.device)
    family_check(base, params)
    if params.prediction_type:
        base = replace(base, scheduler_config=base.scheduler_config | {"prediction_type": params.prediction_type})
    return base


def _attached(base: Base, params: ImageLoraParams) -> list[nn.Parameter]:
    seed = integer(2**63 - 1, params.seed, Purpose.LORA_INIT)
    return attach(base.network, r=params.lora_r, alpha=params.lora_alpha, dropout=params.lora_dropout, seed=seed)


def _resumable(site: Site[ImageLoraParams], base: Base, parameters: Sequence[nn.Parameter]) -> Resumable:
    params = site.params
    return Resumable(
        work=site.work,
        processes=site.processes,
        control=site.control,
        reporter=site.reporter,
        weights=lambda: lora_state(base.network),
        load_weights=lambda state: lora_load_state(base.network, state),
        optimizer=adamw(
            parameters,
            learning_rate=params.rate,
            betas=(params.adam_beta1, params.adam_beta2),
            weight_decay=params.adam_weight_decay,
            epsilon=params.adam_epsilon,
        ),
        scaler=torch.amp.GradScaler(site.processes.device.type, enabled=params.mixed_precision == "fp16"),
        keep=params.keep_checkpoints,
    )


def _free_encoders(base: Base, params: ImageLoraParams, examples: Examples | None) -> None:
    """Frees what only the encoding needed; sample pictures need it all."""
    if params.eval_prompts or examples is None:
        return
    if not examples.needs_vae:
        base.vae.to("meta")
    if not examples.needs_text_encoders:
        for encoder in base.text_encoders:
            encoder.to("meta")


def _task(
    site: Site[ImageLoraParams],
    base: Base,
    rows: Rows,
    examples: Examples | None,
    resumable: Resumable,
    parameters: Sequence[nn.Parameter],
) -> Task[MicroBatch]:
    params, processes = site.params, site.processes
    plan = plan_of(site, base, rows)
    total_steps = params.max_train_steps or params.num_train_epochs * plan.steps_per_epoch
    objective = denoising(base, processes.device, params, DTYPES[params.mixed_precision])
    draws = draws_of(base, params)

    def batch(step: int) -> StepBatch[MicroBatch]:
        assert examples is not None
        return step_batch(examples, rows.trained, draws, plan, step, processes.rank, rows.of_class)

    def validate(_step: int) -> dict[str, float]:
        assert examples is not None
        batches = validation_batches(examples, rows.held_out, draws, VALIDATION_TIMESTEPS)
        return {"loss": validation_loss(objective, batches, processes)}

    def evaluate(step: int) -> bool:
        if processes.rank != 0:
            return True
        return pictures_sample(
            base,
            params,
            step,
            out=site.work.out,
            reporter=site.reporter,
            should_stop=site.control.stop_is_wanted,
        )

    return Task(
        total_steps=total_steps,
        seed=params.seed,
        batch=batch,
        loss=objective,
        parameters=parameters,
        optimizer=resumable.optimizer,
        schedule=schedule(params.lr_scheduler, warmup_steps=params.warmup_steps, total_steps=total_steps),
        max_grad_norm=params.max_grad_norm,
        scaler=resumable.scaler,
        checkpoint_every=params.checkpoint_every_steps,
        evaluate_every=params.eval_every_steps or params.eval_every_epochs * plan.steps_per_epoch,
        unit="images",
        save=resumable.save,
        evaluate=evaluate if params.eval_prompts else None,
        validate=validate if rows.held_out else None,
    )


def _details(
    site: Site[ImageLoraParams], rows: Rows, parameters: Sequence[nn.Parameter], resumable: Resumable
) -> dict[str, str | int | list[str]]:
    return {
        "device": str(site.processes.device),
        "world_size": site.processes.world_size,
        "pictures": len(rows.trained),
        "held_out": [rows.pictures[index].name for index in rows.held_out],
        "trainable_parameters": sum(parameter.numel() for parameter in parameters),
        "cache_digest": resumable.cache_digest,
    }


def _export(site: Site[ImageLoraParams], base: Base, progress: Progress, outcome: Outcome, cache_digest: str) -> None:
    """The adaptor with its card. The header says what it takes to load it well; equal jobs give equal bytes."""
    work, params = site.work, site.params
    model = work.spec.inputs.model
    assert model is not None
    prediction_type = base.scheduler_config.get("prediction_type", "epsilon")
    work.facts.update(
        steps=progress.step,
        metrics=progress.metrics,
        seconds=progress.seconds,
        cache_digest=cache_digest,
        prediction_type=prediction_type,
    )
    header = {
        "base_sha256": model.sha256,
        "base_name": model.name,
        "name": params.adaptor_name,
        "trigger_word": params.trigger_word,
        "prediction_type": prediction_type,
        "step": str(progress.step),
    }
    adaptor_save(base, work.out / "adaptor", metadata=header, config=params.model_dump(mode="json"))
    latest = sorted((work.out / "samples").glob(f"step-{progress.step:08d}-*.png"))
    card_write(work.out / "adaptor", manifest_body(work, outcome), latest)
