"""Exact resume: gathers the state of a job into a checkpoint, restores it, and keeps what `auto` was resolved to."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.contract.errors import ReasonCode, TrainerError
from trainers.contract.events import Checkpoint, Warning_
from trainers.contract.params.base import Params
from trainers.contract.spec import InputRef, JobSpec, canonical_json
from trainers.core.checkpoint import (
    Loaded,
    State,
    checkpoint_load,
    checkpoint_save,
    newest_checkpoint,
    optimizer_load_state,
    optimizer_state,
    rng_load_state,
    rng_state,
)
from trainers.core.context import JobContext
from trainers.core.distributed import GlobalBatch
from trainers.core.loop import Progress
from trainers.core.manifest import versions
from trainers.core.optim import Ema


@dataclass
class Resumable:
    """The live parts of a job that a checkpoint holds."""

    job: JobContext
    weights: Callable[[], dict[str, Tensor]]
    load_weights: Callable[[dict[str, Tensor]], None]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    keep: int
    """Checkpoints to keep."""
    params: Params
    """Of the job, with each `auto` resolved."""
    batch: GlobalBatch
    """From parameters and ranks; after `restore` with the rows of the checkpoint, by another accumulation if needed."""
    ema: Ema | None = None
    cache_digest: str = ""
    """Of the cached inputs, once they are complete."""
    position_at: Callable[[int], dict[str, int]] | None = None
    """Steps done -> where the method then stands in its data, if that does not follow from the step."""
    position: dict[str, int] | None = None
    """As `position_at` gave it to the checkpoint; None before `restore` and after a fresh start."""

    def save(self, progress: Progress) -> None:
        """Writes `out/checkpoints/step-<step>` on rank 0, with the random state of every rank."""
        rngs = self.job.processes.gather(rng_state())
        if self.job.processes.rank == 0:
            optimizer = optimizer_state(self.optimizer)
            folder = checkpoint_save(
                self.job.out / "checkpoints",
                step=progress.step,
                tensors={
                    **({"ema": self.ema.state()} if self.ema else {}),
                    "weights": self.weights(),
                    "optimizer": optimizer.tensors,
                    "rng": {f"{rank}.{name}": t for rank, rng in enumerate(rngs) for name, t in rng.tensors.items()},
                },
                state={
                    **self._environment(),
                    "job_digest": job_digest(self.job.spec),
                    "spec_digest": self.job.spec.digest(exclude_unset=True),
                    "choices": choices_of(self.job.spec.params, self.params),
                    "global_batch": self.batch.rows,
                    "evaluated_step": progress.evaluated_step,
                    "seconds": progress.seconds,
                    "metrics": progress.metrics,
                    "control_seq": self.job.control.obeyed_seq,
                    "cache_digest": self.cache_digest,
                    "optimizer": optimizer.values,
                    "scaler": self.scaler.state_dict(),
                    "rng": [rng.values for rng in rngs],
                    **({"position": self.position_at(progress.step)} if self.position_at else {}),
                },
                keep=self.keep,
            )
            self.job.reporter.emit(Checkpoint(step=progress.step, path=folder.relative_to(self.job.out).as_posix()))
        self.job.processes.barrier()

    def restore(self) -> Progress:
        """Restores the newest checkpoint of `in/` or `out/`; a fresh start if there is none.

        TrainerError CHECKPOINT_DAMAGED; or BAD_CHECKPOINT if it is of a job with other parameters or inputs, or these
        ranks cannot make its global batch.
        """
        folder = newest_checkpoint(self.job.checkpoint, self.job.out / "checkpoints")
        if folder is None:
            return Progress()
        loaded = checkpoint_load(folder)
        self._check(loaded)
        self.batch = self._batch_of(loaded)
        state = loaded.state
        self.load_weights(loaded.tensors["weights"])
        if self.ema:
            self.ema.load_state(loaded.tensors["ema"])
        optimizer_load_state(self.optimizer, State(loaded.tensors.get("optimizer", {}), state["optimizer"]))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        if state["world_size"] == self.job.processes.world_size:
            rng_load_state(_rng_of(loaded, self.job.processes.rank))
        self.job.control.obeyed_seq = int(state["control_seq"])
        self.cache_digest = str(state["cache_digest"])
        self.position = state.get("position")
        return Progress(
            loaded.step,
            evaluated_step=int(state["evaluated_step"]),
            seconds=dict(state["seconds"]),
            metrics=dict(state["metrics"]),
        )

    def inputs_cached(self, digest: str) -> None:
        """Records the digest of the cached inputs; warns if it is not that of before the resume."""
        if self.cache_digest not in ("", digest):
            self._warn(f"the cached inputs were rebuilt: expected digest {self.cache_digest[:12]}, got {digest[:12]}")
        self.cache_digest = digest

    def _check(self, loaded: Loaded) -> None:
        received = loaded.state["job_digest"]
        if not is_of_job(received, self.job.spec):
            raise TrainerError(
                ReasonCode.BAD_CHECKPOINT,
                f"the checkpoint of step {loaded.step} is of a job with other parameters or inputs: "
                f"expected digest {job_digest(self.job.spec)[:12]}, got {received[:12]}",
            )
        for name, now in self._environment().items():
            before = loaded.state[name]
            if before != now:
                was, is_now = _difference(before, now), _difference(now, before)
                self._warn(f"resumed, but not bit for bit: {name} was {was}, is {is_now}")

    def _batch_of(self, loaded: Loaded) -> GlobalBatch:
        """The checkpoint's global batch on these ranks, so that steps, rows and rate stay what they were."""
        before = replace(self.batch, world_size=loaded.state["world_size"])
        rows = int(loaded.state.get("global_batch", before.rows))
        try:
            batch = self.batch.with_rows(rows)
        except ValueError as error:
            counts = ", ".join(map(str, before.world_sizes(rows)))
            raise TrainerError(
                ReasonCode.BAD_CHECKPOINT,
                f"the checkpoint of step {loaded.step} is of {before.with_rows(rows)}; now {error}. "
                f"Resume it with another number of processes ({counts}), or queue the job again from the start",
            ) from None
        if batch != self.batch:
            self._warn(
                f"resumed with the checkpoint's {batch}; the parameters ask for accumulation {self.batch.accumulation}"
            )
        return batch

    def _environment(self) -> dict[str, Any]:
        """Resume is exact only while these stay equal."""
        return {
            "world_size": self.job.processes.world_size,
            "thread_count": torch.get_num_threads(),
            "device": self.job.processes.device.type,
            "versions": versions(),
        }

    def _warn(self, message: str) -> None:
        self.job.reporter.emit(Warning_(message=message))


def is_of_job(digest: str, spec: JobSpec) -> bool:
    """Whether a checkpoint with this job digest is of the job of `spec`.

    A job of an earlier release lists every parameter of its time, so what it does not list is newer than its
    checkpoints and not part of their digest.
    """
    return digest in (job_digest(spec), job_digest(spec, exclude_unset=True))


def job_digest(spec: JobSpec, *, exclude_unset: bool = False) -> str:
    """Digest of what the result depends on: method, parameters, and the contents of the inputs; not the resources.

    exclude_unset: without parameters that the spec does not list.
    """
    inputs = spec.inputs
    content = {
        "method": spec.method,
        "params": spec.params.model_dump(mode="json", exclude_unset=exclude_unset),
        "dataset": _sha256(inputs.dataset),
        "model": _sha256(inputs.model),
        "adaptors": [adaptor.sha256 for adaptor in inputs.adaptors],
        "further_datasets": [_sha256(dataset) for dataset in inputs.further_datasets],
        "class_dataset": _sha256(inputs.class_dataset),
    }
    return hashlib.sha256(canonical_json(content)).hexdigest()


def _sha256(ref: InputRef | None) -> str | None:
    return ref.sha256 if ref else None


def _rng_of(loaded: Loaded, rank: int) -> State:
    prefix = f"{rank}."
    tensors = {n.removeprefix(prefix): t for n, t in loaded.tensors["rng"].items() if n.startswith(prefix)}
    return State(tensors, loaded.state["rng"][rank])


def _difference(value: Any, other: Any) -> Any:
    """Of tables of versions only the entries of `value` that differ from `other`."""
    if isinstance(value, dict) and isinstance(other, dict):
        return {name: entry for name, entry in value.items() if other.get(name) != entry}
    return value


AnyParams = TypeVar("AnyParams", bound=Params)
AUTO = "auto"


def choices_make(job: JobContext, params: AnyParams, here: Mapping[str, str]) -> AnyParams:
    """`params` with each `auto` resolved: to the choice in the newest checkpoint, else to that of `here`."""
    before = _recorded(job)
    names = [name for name in here if getattr(params, name) == AUTO]
    return params.model_copy(update={name: before.get(name, here[name]) for name in names})


def choices_of(requested: Params, params: Params) -> dict[str, str]:
    """The values in `params` of the fields that `requested` has at `auto`."""
    values = {name: getattr(params, name) for name in type(params).model_fields if getattr(requested, name) == AUTO}
    return {name: value for name, value in values.items() if value != AUTO}


def _recorded(job: JobContext) -> dict[str, str]:
    """{} at a first start, and if the checkpoint cannot be read, which `restore` reports."""
    folder = newest_checkpoint(job.checkpoint, job.out / "checkpoints")
    try:
        choices = json.loads((folder / "state.json").read_bytes()).get("choices", {}) if folder else {}
    except (OSError, ValueError, AttributeError):
        return {}
    return dict(choices)
