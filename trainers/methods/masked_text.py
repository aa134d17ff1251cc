"""Method `masked_text`: fine-tunes a text-diffusion model, all of it or by LoRA. Builds the parts and calls fit."""

from contextlib import ExitStack

from trainers.contract.events import Started, Warning_
from trainers.contract.params.masked_text import MaskedTextParams
from trainers.core.control import Control
from trainers.core.listeners import listeners_attach
from trainers.core.loop import StepBatch, Task, fit
from trainers.core.optim import schedule
from trainers.core.resume import Resumable
from trainers.core.site import Site
from trainers.core.tracking import Reporter
from trainers.core.workspace import Outcome, Workspace
from trainers.text.data.batches import TextMicroBatch, text_step_batch
from trainers.text.data.dataset import TextDataset, dataset_read
from trainers.text.data.plan import TextPlan
from trainers.text.data.recipe import recipe_of
from trainers.text.training.device import processes_start
from trainers.text.training.eval_prompts import answers_show
from trainers.text.training.export import facts, products_write
from trainers.text.training.training import DTYPES, Trained, resumable_of, trained_base
from trainers.text.training.unmasking import Unmasking
from trainers.text.training.validation import validate

NEVER = 1 << 62
"""Steps between two evaluations where there are none."""


def train(work: Workspace) -> Outcome:
    """Trains, and writes the adaptor or the fused model (a partial one when stopped)."""
    assert isinstance(work.spec.params, MaskedTextParams)
    with ExitStack() as stack:
        processes, reporter = processes_start(work.spec.params, work.spec.resources), Reporter(work.events)
        control = Control(work.inputs / "control", processes, reporter)
        stack.callback(control.close)
        return _train(Site(work, work.spec.params, processes, control, reporter), stack)


def _train(site: Site[MaskedTextParams], stack: ExitStack) -> Outcome:
    for message in site.params.warnings():
        site.reporter.say(Warning_(message=message))
    trained = trained_base(site)
    dataset = dataset_read(site, trained.base)
    resumable = resumable_of(site, trained)
    progress = resumable.restore()
    listeners_attach(
        site.work,
        site.processes,
        site.reporter,
        stack,
        tensorboard=site.params.log_to_tensorboard,
        wandb=site.params.log_to_wandb,
        wandb_project=site.params.wandb_project,
        start_step=progress.step,
    )
    task = _task(site, trained, dataset, resumable)
    site.reporter.say(Started(total=task.total_steps, step=progress.step, details=_details(site, trained, dataset)))
    outcome = fit(task, progress, processes=site.processes, control=site.control, reporter=site.reporter)
    if site.processes.rank == 0:
        site.work.facts.update(steps=progress.step, metrics=progress.metrics, seconds=progress.seconds)
        site.work.facts.update(facts(site.params, trained.base, dataset))
        products_write(site, trained, progress, outcome)
    return outcome


def _task(
    site: Site[MaskedTextParams], trained: Trained, dataset: TextDataset, resumable: Resumable
) -> Task[TextMicroBatch]:
    params, processes, base = site.params, site.processes, trained.base
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

    def validated(_step: int) -> dict[str, float]:
        return validate(objective, dataset.documents, dataset.held_out, recipe, processes)

    def answered(step: int) -> bool:
        if processes.rank != 0:
            return True
        return answers_show(
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
        evaluate=answered if params.eval_prompts else None,
        validate=validated if dataset.held_out else None,
        further_metrics=("masked_nll",),
        log_every=params.steps_of(params.logging_steps, total_steps),
    )


def _warmup_steps(params: MaskedTextParams, total_steps: int) -> int:
    return 0 if params.learning_rate_schedule == "constant" else round(params.warmup_ratio * total_steps)


def _evaluate_every(params: MaskedTextParams, plan: TextPlan, total_steps: int) -> int:
    if not params.evaluates:
        return NEVER
    return plan.steps_per_epoch if params.eval_strategy == "epoch" else params.steps_of(params.eval_steps, total_steps)


def _details(site: Site[MaskedTextParams], trained: Trained, dataset: TextDataset) -> dict[str, object]:
    return {
        "device": str(site.processes.device),
        "world_size": site.processes.world_size,
        "family": trained.base.family,
        "trainable_parameters": sum(parameter.numel() for parameter in trained.parameters),
        "dataset": dataset.facts(),
    }
