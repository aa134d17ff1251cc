"""Method `masked_text`: fine-tunes a text-diffusion model, fully or with LoRA."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Progress, Sample, Started, Warning_
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.context import JobContext, Outcome
from trainers.core.device import precision_set
from trainers.core.loop import Hooks, StepBatch, TrainingPlan, fit
from trainers.core.optim import schedule
from trainers.core.reporting import Reporter, listeners_attach
from trainers.core.resume import Resumable
from trainers.optional.libraries import optional_module
from trainers.text.data.batches import TextMicroBatch, TextPlan, recipe_of, text_step_batch
from trainers.text.data.chat import prompt_ids
from trainers.text.data.dataset import TextDataset, dataset_read
from trainers.text.models.base import TextBase
from trainers.text.models.load import DTYPES
from trainers.text.sampling.texts import Decoding, answers_sample, text_write
from trainers.text.training.trainable import TrainableBase, manifest_facts, outputs_write, resumable_of, trainable_load
from trainers.text.training.unmasking import Unmasking, validate

NEVER = 1 << 62
"""Evaluation interval that no training reaches."""


def train(job: JobContext[MaskedTextParams]) -> Outcome:
    """Trains and writes the adaptor or the model; a stopped job writes what it has reached."""
    with ExitStack() as stack:
        return _train(job_on_device(job), stack)


def _train(job: JobContext[MaskedTextParams], stack: ExitStack) -> Outcome:
    for message in job.params.warnings():
        job.reporter.emit(Warning_(message=message))
    job.facts["precision"] = precision_set(job.processes.device, DTYPES[job.params.dtype])
    trained = trainable_load(job)
    dataset = dataset_read(job, trained.base)
    resumable = resumable_of(job, trained)
    progress = resumable.restore()
    listeners_attach(
        job,
        stack,
        tensorboard=job.params.log_to_tensorboard,
        wandb=job.params.log_to_wandb,
        wandb_project=job.params.wandb_project,
        start_step=progress.step,
    )
    training = _training_plan(job, trained, dataset, resumable)
    job.reporter.emit(Started(total=training.total_steps, step=progress.step, details=_details(job, trained, dataset)))
    outcome = fit(training, progress, processes=job.processes, control=job.control, reporter=job.reporter)
    if job.processes.rank == 0:
        job.facts.update(steps=progress.step, metrics=progress.metrics, seconds=progress.seconds)
        job.facts.update(manifest_facts(job.params, trained.base, dataset))
        outputs_write(job, trained, progress, outcome)
    return outcome


def _training_plan(
    job: JobContext[MaskedTextParams], trained: TrainableBase, dataset: TextDataset, resumable: Resumable
) -> TrainingPlan[TextMicroBatch]:
    params, processes, base = job.params, job.processes, trained.base
    plan = TextPlan(
        num_documents=len(dataset.trained),
        batch_size=resumable.batch.batch_size,
        accumulation=resumable.batch.accumulation,
        world_size=resumable.batch.world_size,
        seed=params.seed,
    )
    total_steps = params.num_train_epochs * plan.steps_per_epoch or params.train_steps
    recipe = recipe_of(params, base)
    suppress = base.mask_id if params.suppress_mask_logit else None
    objective = Unmasking(base, processes.device, DTYPES[params.dtype], suppress)

    def batch(step: int) -> StepBatch[TextMicroBatch]:
        return text_step_batch(dataset.documents, dataset.trained, recipe, plan, step, processes.rank)

    def validation(_step: int) -> dict[str, float]:
        return validate(objective, dataset.documents, dataset.held_out, recipe, processes)

    def answer_eval_prompts(step: int) -> bool:
        if processes.rank != 0:
            return True
        return eval_prompts_answer(
            base,
            params,
            step,
            out=job.out,
            reporter=job.reporter,
            should_stop=job.control.stop_is_wanted,
        )

    return TrainingPlan(
        total_steps=total_steps,
        seed=params.seed,
        batch=batch,
        loss=objective,
        parameters=trained.parameters,
        optimizer=resumable.optimizer,
        schedule=schedule(
            params.learning_rate_schedule, warmup_steps=_warmup_steps(params, total_steps), total_steps=total_steps
        ),
        max_grad_norm=params.max_grad_norm,
        scaler=resumable.scaler,
        checkpoint_every=params.steps_of(params.save_steps, total_steps),
        evaluate_every=_evaluate_every(params, plan, total_steps),
        unit="tokens",
        save=resumable.save,
        hooks=Hooks(
            evaluate=answer_eval_prompts if params.eval_prompts else None,
            validate=validation if dataset.held_out else None,
        ),
        further_metrics=("masked_nll",),
        log_every=params.steps_of(params.logging_steps, total_steps),
    )


def _warmup_steps(params: MaskedTextParams, total_steps: int) -> int:
    return 0 if params.learning_rate_schedule == "constant" else round(params.warmup_ratio * total_steps)


def _evaluate_every(params: MaskedTextParams, plan: TextPlan, total_steps: int) -> int:
    if not params.evaluates:
        return NEVER
    return plan.steps_per_epoch if params.eval_strategy == "epoch" else params.steps_of(params.eval_steps, total_steps)


def _details(job: JobContext[MaskedTextParams], trained: TrainableBase, dataset: TextDataset) -> dict[str, object]:
    return {
        "device": str(job.processes.device),
        "world_size": job.processes.world_size,
        "precision": job.facts["precision"],
        "family": trained.base.family,
        "trainable_parameters": sum(parameter.numel() for parameter in trained.parameters),
        "dataset": dataset.facts(),
    }


def job_on_device(job: JobContext[MaskedTextParams]) -> JobContext[MaskedTextParams]:
    """The job on the device of `train_device`. Raises TrainerError(MISSING_LIBRARY) if torch_xla is not installed."""
    if job.params.train_device != "tpu":
        return job
    try:
        library = optional_module("torch_xla", "tpu")
    except TrainerError as error:
        raise TrainerError(
            ReasonCode.MISSING_LIBRARY,
            "train_device='tpu' needs torch_xla, which is not installed on this worker; install its release for the "
            "worker's torch",
        ) from error
    return replace(job, processes=replace(job.processes, device=library.device()))


MAX_EVAL_TOKENS = 64
"""Maximum length of an answer, fewer where the model has no room."""


def eval_prompts_answer(
    base: TextBase,
    params: MaskedTextParams,
    step: int,
    *,
    out: Path,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> bool:
    """Answers every eval prompt with the current weights, prompt i with seed + i. Returns False when stopped early.

    Writes each answer with its trace to samples/step-<step>-<i>.json.
    """
    ids = [prompt_ids(base, prompt) for prompt in params.eval_prompts]
    room = base.max_positions - max(len(prompt) for prompt in ids)
    if room < 1:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS,
            f"the longest of eval_prompts takes {base.max_positions - room} tokens, which leaves no answer any room: "
            f"the base model has {base.max_positions} positions; shorten it",
        )
    seeds = [params.seed + index for index in range(len(ids))]
    reporter.emit(Progress(stage="answering", done=0, total=len(ids)))
    decoding = Decoding(max_new_tokens=min(MAX_EVAL_TOKENS, room))
    texts = answers_sample(base, ids, decoding, seeds, should_stop=should_stop)
    for index, (text, prompt, seed) in enumerate(zip(texts, params.eval_prompts, seeds, strict=bool(texts))):
        path = f"samples/step-{step:08d}-{index}.json"
        text_write(out / path, base, text, {"prompt": prompt, "seed": seed, "training_step": step})
        reporter.emit(
            Sample(
                step=step,
                path=path,
                label=f"prompt {index + 1}",
                prompt=prompt,
                seed=seed,
                details={"text": text.text, "steps": text.steps},
            )
        )
    return bool(texts)
