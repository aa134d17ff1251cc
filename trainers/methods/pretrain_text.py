"""Method `pretrain_text`: trains a text-diffusion model from scratch on a corpus, or goes on with a base model."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Started, Warning_
from trainers.contract.params.pretrain_text import PretrainTextParams
from trainers.core.context import JobContext, Outcome
from trainers.core.distributed import GlobalBatch
from trainers.core.loop import Hooks, StepBatch, TrainingPlan, fit
from trainers.core.muon import Muon, Route, iteration_dtype, routes, routes_table
from trainers.core.optim import schedule
from trainers.core.reporting import listeners_attach
from trainers.core.resume import Resumable
from trainers.text.data.batches import Recipe, TextMicroBatch, TextPlan, noised_micro_batches
from trainers.text.data.chat import Encoded, Role
from trainers.text.data.corpus import Corpus, Ids, PackedSequence, Position, step_length
from trainers.text.data.dataset import EosPadding
from trainers.text.data.rows import files_by_split
from trainers.text.models.base import TextBase
from trainers.text.models.create import text_create
from trainers.text.models.load import DTYPES, load_text
from trainers.text.models.weights import model_write
from trainers.text.training.unmasking import Unmasking, validate

NEVER = 1 << 62
"""Evaluation interval that no training reaches."""
HELD_OUT_SEQUENCES = 64
"""Sequences of the held-out documents that a validation takes at most."""


def train(job: JobContext[PretrainTextParams]) -> Outcome:
    """Trains and writes the model; a stopped job writes what it has reached."""
    with ExitStack() as stack:
        return _train(job, stack)


def _train(job: JobContext[PretrainTextParams], stack: ExitStack) -> Outcome:
    params, processes = job.params, job.processes
    for message in params.warnings():
        job.reporter.emit(Warning_(message=message))
    base = _base(job)
    table = routes(base.model)
    resumable = _resumable(job, table)
    progress = resumable.restore()
    listeners_attach(
        job, stack, tensorboard=params.log_to_tensorboard, wandb=False, wandb_project="", start_step=progress.step
    )
    corpus = _corpus(job, base)
    batches = Batches(job, base, corpus, Position(**(resumable.position or {})), progress.step)
    resumable.position_at = batches.position_at
    held_out = _held_out(corpus, params)
    job.reporter.emit(
        Started(total=params.max_steps, step=progress.step, details=_details(job, base, corpus, held_out))
    )
    plan = _training_plan(job, base, table, resumable, batches, held_out)
    outcome = fit(plan, progress, processes=processes, control=job.control, reporter=job.reporter)
    if processes.rank == 0:
        job.facts.update(steps=progress.step, metrics=progress.metrics, seconds=progress.seconds)
        job.facts.update(_manifest_facts(base, corpus, batches.position_at(progress.step)))
        model_write(base, job.out / "model", dtype=DTYPES[params.dtype])
    return outcome


def _base(job: JobContext[PretrainTextParams]) -> TextBase:
    """The network in fp32 on this rank's device, in train mode."""
    params, device = job.params, job.processes.device
    if params.continue_training:
        base = load_text(job.model, torch.float32, device)
        if params.packing_length > base.max_positions:
            raise TrainerError(
                ReasonCode.BAD_PARAMETERS,
                f"packing_length={params.packing_length} is more than the {base.max_positions} positions of the base "
                "model",
            )
    else:
        base = text_create(params, job.model if job.spec.inputs.model else None)
    base.model.to(device).requires_grad_(True).train()
    if params.gradient_checkpointing:
        base.model.activation_checkpointing_enable({"use_reentrant": False})
    return base


def _resumable(job: JobContext[PretrainTextParams], table: Sequence[Route]) -> Resumable:
    params, processes = job.params, job.processes
    weights = {route.name: route.parameter for route in table}

    def load_weights(state: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, parameter in weights.items():
                parameter.copy_(state[name])

    return Resumable(
        job=job,
        weights=lambda: dict(weights),
        load_weights=load_weights,
        optimizer=_optimizer(job, table),
        scaler=torch.amp.GradScaler(processes.device.type, enabled=False),
        keep=params.keep_checkpoints,
        params=params,
        batch=GlobalBatch(params.batch_size, params.gradient_accumulation_steps, 1),
    )


def _optimizer(job: JobContext[PretrainTextParams], table: Sequence[Route]) -> torch.optim.Optimizer:
    params = job.params
    betas = (params.adam_beta1, params.adam_beta2)
    if params.optimizer == "muon":
        if job.processes.rank == 0:
            print(routes_table(table), flush=True)
        return Muon(
            table,
            learning_rate=params.learning_rate,
            betas=betas,
            weight_decay=params.weight_decay,
            epsilon=params.adam_epsilon,
            dtype=iteration_dtype(job.processes.device),
        )
    groups = [
        {"params": [route.parameter for route in table if route.decays is decays], "weight_decay": decay}
        for decays, decay in ((True, params.weight_decay), (False, 0.0))
    ]
    return torch.optim.AdamW(groups, lr=params.learning_rate, betas=betas, eps=params.adam_epsilon, fused=True)


def _corpus(job: JobContext[PretrainTextParams], base: TextBase) -> Corpus:
    params = job.params
    splits = files_by_split(job.dataset)
    chosen = params.split_of([name for name in splits if name])

    def tokenize(texts: Sequence[str]) -> list[list[int]]:
        encoded = base.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True, verbose=False)
        ids: list[list[int]] = encoded.input_ids
        return ids

    return Corpus(
        files=[path for name, paths in splits.items() if name == chosen or not name for path in paths],
        text_column=params.text_column,
        tokenize=tokenize,
        eos_id=base.eos_id,
        seed=params.seed,
        window=params.shuffle_window,
        held_out=params.validation_documents,
    )


def _held_out(corpus: Corpus, params: PretrainTextParams) -> list[Encoded]:
    """The held-out documents as whole sequences; the last, shorter one counts where there is no other."""
    documents = corpus.encode(corpus.held_out_texts())
    if not documents:
        return []
    ids, length = np.concatenate(documents), params.packing_length
    starts = range(0, max(1, len(ids) - length + 1), length)
    return [encoded_of(ids[start : start + length]) for start in starts[:HELD_OUT_SEQUENCES]]


class Batches:
    """The batches of the steps, in their order, and the position in the corpus after each."""

    def __init__(
        self, job: JobContext[PretrainTextParams], base: TextBase, corpus: Corpus, start: Position, first_step: int
    ) -> None:
        params = job.params
        self._job, self._recipe = job, recipe_of(params, base)
        self._plan = TextPlan(
            num_documents=1,
            batch_size=_rank_share(params.batch_size, job.processes.world_size),
            accumulation=params.gradient_accumulation_steps,
            world_size=job.processes.world_size,
            seed=params.seed,
        )
        self._num_sequences = params.batch_size * params.gradient_accumulation_steps
        self._next_step = first_step
        self._positions = {first_step: start}
        self._sequences = corpus.sequences(start, self._lengths(first_step))

    def __call__(self, step: int) -> StepBatch[TextMicroBatch]:
        assert step == self._next_step, f"the corpus is read in order: expected step {self._next_step}, got {step}"
        sequences = []
        for _ in range(self._num_sequences):
            sequence, position = next(self._sequences)
            sequences.append(sequence)
        self._next_step = step + 1
        self._positions = {at: value for at, value in self._positions.items() if at >= step - 1}
        self._positions[step + 1] = position
        shares = self._plan.shares(len(sequences), self._job.processes.rank)
        encoded = [encoded_of(sequence.ids_L) for sequence in sequences]
        micro_batches = noised_micro_batches(encoded, self._recipe, step, shares)
        if self._job.params.document_mask:
            micro_batches = [
                replace(micro_batch, lengths=_piece_lengths(sequences[at] for at in share))
                for micro_batch, share in zip(micro_batches, shares, strict=True)
            ]
        tokens = sum(len(sequence.ids_L) for sequence in sequences)
        return StepBatch(micro_batches, count=1, units=tokens, epoch=position.epoch, documents=len(sequences))

    def position_at(self, step: int) -> dict[str, int]:
        """Where the stream stands after `step` steps: the latest, and the few before it that may be asked for."""
        return self._positions[step].to_json()

    def _lengths(self, first_step: int) -> Iterator[int]:
        params = self._job.params
        for step in count(first_step):
            length = step_length(params.seed, step, params.packing_length, params.short_batches)
            yield from [length] * self._num_sequences


def encoded_of(ids_L: Ids) -> Encoded:
    """A sequence in which every token may be masked."""
    return Encoded(ids_L, np.full(len(ids_L), Role.RESPONSE, np.uint8))


def recipe_of(params: PretrainTextParams, base: TextBase) -> Recipe:
    return Recipe(
        seed=params.seed,
        mask_id=base.mask_id,
        eos_id=base.eos_id,
        pad_id=base.pad_id,
        bos_id=base.bos_id,
        shift=False,
        packing=True,
        padding=EosPadding.parse("masked"),
        mask_prompt_loss=False,
        schedule=params.noise_schedule,
        epsilon=params.time_epsilon,
        antithetic=params.antithetic_t,
        weighting=params.loss_weight_type,
        geo_p=None,
        norm="token",
        cuts_per_batch=False,
        cut_ratio=0.0,
    )


def _training_plan(
    job: JobContext[PretrainTextParams],
    base: TextBase,
    table: Sequence[Route],
    resumable: Resumable,
    batches: Batches,
    held_out: Sequence[Encoded],
) -> TrainingPlan[TextMicroBatch]:
    params = job.params
    objective = Unmasking(base, job.processes.device, DTYPES[params.dtype], None)
    recipe = recipe_of(params, base)

    def validation(_step: int) -> dict[str, float]:
        return validate(objective, held_out, range(len(held_out)), recipe, job.processes)

    parameters: list[nn.Parameter] = [route.parameter for route in table]
    return TrainingPlan(
        total_steps=params.max_steps,
        seed=params.seed,
        batch=batches,
        loss=objective,
        parameters=parameters,
        optimizer=resumable.optimizer,
        schedule=schedule(
            params.learning_rate_schedule, warmup_steps=_warmup_steps(params), total_steps=params.max_steps
        ),
        max_grad_norm=params.max_grad_norm,
        scaler=resumable.scaler,
        checkpoint_every=params.save_steps,
        evaluate_every=params.eval_steps if held_out else NEVER,
        unit="tokens",
        save=resumable.save,
        hooks=Hooks(validate=validation if held_out else None),
        further_metrics=("masked_nll",),
        log_every=params.logging_steps,
    )


def _warmup_steps(params: PretrainTextParams) -> int:
    return 0 if params.learning_rate_schedule == "constant" else params.warmup_steps


def _rank_share(batch_size: int, world_size: int) -> int:
    """Sequences of a micro-batch for each process. Raises TrainerError(BAD_PARAMETERS)."""
    if batch_size % world_size:
        raise TrainerError(
            ReasonCode.BAD_PARAMETERS, f"batch_size={batch_size} must be a multiple of the {world_size} processes"
        )
    return batch_size // world_size


def _piece_lengths(sequences: Iterator[PackedSequence]) -> tuple[int, ...]:
    return tuple(length for sequence in sequences for length in sequence.lengths)


def _details(
    job: JobContext[PretrainTextParams], base: TextBase, corpus: Corpus, held_out: Sequence[Encoded]
) -> dict[str, object]:
    return {
        "device": str(job.processes.device),
        "world_size": job.processes.world_size,
        "family": base.family,
        "trainable_parameters": sum(parameter.numel() for parameter in base.model.parameters()),
        "files": len(corpus.files),
        "held_out_sequences": len(held_out),
    }


def _manifest_facts(base: TextBase, corpus: Corpus, position: dict[str, int]) -> dict[str, object]:
    return {
        "family": base.family,
        "was_causal": False,
        "shift": base.shift,
        "eos_token": base.tokenizer.convert_ids_to_tokens(base.eos_id),
        "mask_token": base.tokenizer.convert_ids_to_tokens(base.mask_id),
        "vocab_size": base.vocab_size,
        "corpus": {"files": [Path(path).name for path in corpus.files], "position": position},
        "equal_on_any_processes": True,
    }
